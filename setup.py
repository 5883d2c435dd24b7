"""What pyproject.toml cannot say: the committed results, a folder beside the package, travel in it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["unrolling", "unrolling.*"]), "unrolling.results"],
    package_dir={"unrolling.results": "results"},
)
