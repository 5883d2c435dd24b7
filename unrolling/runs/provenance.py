"""How a run was made: when, on what, with which versions and from which commit."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@cache
def commit() -> dict[str, Any]:
    """Return the commit that the package is run from and whether its tracked files differ from it.

    Both are None where the package is not inside its git repository.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "--short=12", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no", ".")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", "unrolling"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe_device(device: torch.device) -> str:
    """Return the device in words, for example the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def provenance(device: torch.device, started: str, seconds: float, graphs: bool = False) -> dict[str, Any]:
    """Return everything about a run that its numbers should not depend on.

    Args:
        device: Where it ran.
        started: When, in ISO 8601.
        seconds: How long it took, the time before it was last resumed with it.
        graphs: Whether its steps were replayed from CUDA graphs.
    """
    return {
        "started": started,
        "seconds": round(seconds, 2),
        "device": describe_device(device) + (", CUDA graphs" if graphs else ""),
        "threads": 1 if device.type == "cpu" else torch.get_num_threads(),  # of every run: see execute
        "platform": platform.system(),
        **versions(),
        **commit(),
    }
