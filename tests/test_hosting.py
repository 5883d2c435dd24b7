"""What the repository's host reads: workflows, forms, what is launched, and the book's links to all that."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from test_workflow import GOOD, make_repository

from workflow.build_book import build
from workflow.hosting import BRANCH, linked, repository_address
from workflow.staging import Layout, book_notebooks, toc_files

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCHEMAS = dict.fromkeys(WORKFLOWS, "github-workflows") | {
    ROOT / ".github" / "ISSUE_TEMPLATE" / "report.yml": "github-issue-forms",
    ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml": "github-issue-config",
    ROOT / "CITATION.cff": "citation-file-format",
}


def validate(path, schema):
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def checker(needs):
    needs(importlib.util.find_spec("check_jsonschema"), "no check-jsonschema: run `make setup`")


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_the_hosts_schema_accepts_it(path, checker):
    found = validate(path, SCHEMAS[path])
    assert found.returncode == 0, found.stdout


def test_the_schema_refuses_a_workflow_without_a_runner(tmp_path, checker):
    text = WORKFLOWS[0].read_text(encoding="utf-8")
    (tmp_path / "x.yml").write_text(re.sub(r"^ +runs-on:.*\n", "", text, flags=re.MULTILINE))
    assert "runs-on" in validate(tmp_path / "x.yml", "github-workflows").stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_exists(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in commands:
        if named := re.match(r"make ([a-z ]+)", command):
            assert set(named[1].split()) <= verbs
        elif command.startswith("."):
            assert (ROOT / command).stat().st_mode & 0o100, f"{command} cannot be executed"


def test_tests_run_on_every_python_that_the_package_names():
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"].values()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.split(" :: ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert job["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


# The address of the repository


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, None),
        ({"GITHUB_REPOSITORY": "a/b"}, "https://github.com/a/b"),
        (
            {"GITHUB_REPOSITORY": "a/b", "GITHUB_SERVER_URL": "https://git.example.org"},
            "https://git.example.org/a/b",
        ),
        ({"GITHUB_REPOSITORY": "a/b", "UNROLLING_REPOSITORY": ""}, None),
        ({"GITHUB_REPOSITORY": "a/b", "UNROLLING_REPOSITORY": "https://x.org/c/d.git"}, "https://x.org/c/d"),
        ({"UNROLLING_REPOSITORY": "https://gitlab.com/c/d/e/"}, "https://gitlab.com/c/d/e"),
    ],
)
def test_one_setting_names_the_repository_and_else_the_host_does(environment, address):
    assert repository_address(environment) == address


@pytest.mark.parametrize("address", ["a/b", "git@github.com:a/b.git", "https://github.com/a", "https:///a/b"])
def test_what_is_no_address_stops_the_build_in_one_line(address, tmp_path, monkeypatch, capsys):
    make_repository(tmp_path, only=GOOD)
    monkeypatch.setenv("UNROLLING_REPOSITORY", address)
    with pytest.raises(ValueError, match="expected the repository's address as https://HOST/OWNER/NAME"):
        build(tmp_path, "quick", {})
    assert capsys.readouterr().out == ""


def test_a_book_has_links_to_its_repository_only_where_its_address_is_known(tmp_path, monkeypatch):
    make_repository(tmp_path, only=GOOD)
    for name in ("UNROLLING_REPOSITORY", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    page = build(tmp_path, "quick", {}) / "notebooks" / "only.html"
    assert not re.search(r"mybinder|colab|github\.com|issues/new", page.read_text())

    monkeypatch.setenv("GITHUB_REPOSITORY", "some/where")
    build(tmp_path, "quick", {})
    links = re.findall(r'href="(https?://[^"]+)"', page.read_text())
    file = "notebooks/only.ipynb"
    assert (Layout(tmp_path, "quick").root / file).exists()
    assert {
        "https://github.com/some/where",
        f"https://github.com/some/where/edit/{BRANCH}/{file}",
        f"https://mybinder.org/v2/gh/some/where/{BRANCH}?urlpath=lab/tree/{file}",
        f"https://colab.research.google.com/github/some/where/blob/{BRANCH}/{file}",
    } <= set(links)
    assert any(link.startswith("https://github.com/some/where/issues/new?") for link in links)


def test_colab_is_offered_on_github_only():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert "colab_url" not in linked(config, "https://gitlab.com/a/b")["launch_buttons"]
    assert "colab_url" in linked(config, "https://github.com/a/b")["launch_buttons"]


def test_every_page_of_the_book_is_a_file_of_the_repository():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for page in toc_files(toc):
        assert any((ROOT / f"{page}{ending}").exists() for ending in (".md", ".ipynb")), page


# What Binder builds


def test_binder_installs_the_lock_and_the_package():
    folder = ROOT / ".binder"
    files = re.findall(r"^-r (.+)$", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert [(folder / file).resolve() for file in files] == [ROOT / "requirements.lock"]
    post = folder / "postBuild"
    assert post.stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", str(post)]).returncode == 0
    assert "--editable ." in post.read_text()
    (version,) = re.findall(r"^python-(3\.\d+)$", (folder / "runtime.txt").read_text())
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python={version}" in environment["dependencies"]


# Pages that were renamed


def renamed():
    """The table of CHANGELOG.md, old to new."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\d\d_\w+)` \| `(\d\d_\w+)` \|$", text, re.MULTILINE))


def test_old_addresses_lead_to_pages_of_the_book():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    redirects = config["sphinx"]["config"]["redirects"]
    assert redirects == {f"notebooks/{old}": f"{new}.html" for old, new in renamed().items()}
    slugs = set(book_notebooks(ROOT))
    assert len(redirects) == 13
    assert set(renamed().values()) <= slugs
    assert not set(renamed()) & slugs


def test_the_site_redirects(tmp_path):
    make_repository(tmp_path, **{"08_sd_loss": GOOD})
    html = build(tmp_path, "quick", {})
    text = (html / "notebooks" / "05_sd_loss.html").read_text()
    target = re.search(r"url=([^\"]+)\"", text)[1]
    assert (html / "notebooks" / target).exists()
