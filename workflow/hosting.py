"""Links of the book to where its repository is hosted: launch buttons, edit, issue and source links.

There are none unless ``UNROLLING_REPOSITORY``, or the host's own ``GITHUB_REPOSITORY``, says where that is.
"""

import copy
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

BRANCH = "main"


def repository_address(environment: Mapping[str, str]) -> str | None:
    """Return the address of the repository's page, None if there are to be no links.

    Args:
        environment: ``UNROLLING_REPOSITORY`` is the address, and empty where no links are wanted; without it
            ``GITHUB_REPOSITORY`` is owner and name on ``GITHUB_SERVER_URL``.

    Raises:
        ValueError: If it is not the address of a repository.
    """
    server, name = environment.get("GITHUB_SERVER_URL", "https://github.com"), "GITHUB_REPOSITORY"
    hosted = f"{server}/{environment[name]}" if environment.get(name) else ""
    address = environment.get("UNROLLING_REPOSITORY", hosted).removesuffix("/").removesuffix(".git")
    if not address:
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or len(parts.path.strip("/").split("/")) < 2:
        raise ValueError(
            f"expected the repository's address as https://HOST/OWNER/NAME, got {address!r}: "
            "set UNROLLING_REPOSITORY to it, or to nothing for a book without such links."
        )
    return address


def linked(config: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Return the book's configuration with links to the repository at ``address``.

    Args:
        config: What ``_config.yml`` says.
        address: Of the repository's page.
    """
    new, host = copy.deepcopy(dict(config)), urlsplit(address).netloc
    new["repository"] = {"url": address, "branch": BRANCH, "path_to_book": ""}
    new["html"] |= {f"use_{button}_button": True for button in ("edit_page", "repository", "issues")}
    new["launch_buttons"] = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    if host == "github.com":  # Colab reads from no other host
        new["launch_buttons"]["colab_url"] = "https://colab.research.google.com"
    # The theme cannot tell what runs on a host that it does not know.
    options = new["sphinx"]["config"]["html_theme_options"]
    options["repository_provider"] = "gitlab" if "gitlab" in host else "github"
    return new
