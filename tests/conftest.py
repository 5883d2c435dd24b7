import os
from pathlib import Path

import pytest

from workflow.staging import kernel_environment

ROOT = Path(__file__).resolve().parent.parent

# Kernels that nbval starts inherit this process's environment: the same run store as the book's.
os.environ.update(kernel_environment(ROOT))


@pytest.fixture(scope="session")
def needs():
    """Skip a test that cannot run here; on CI, where everything is installed, fail instead."""

    def check(available, reason):
        if not available:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)

    return check
