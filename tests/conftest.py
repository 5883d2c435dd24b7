import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from workflow.staging import kernel_environment

ROOT = Path(__file__).resolve().parent.parent

# Kernels that nbval starts inherit this process's environment: the same run store as the book's.
os.environ.update(kernel_environment(ROOT))

# Equal examples every time, and no limit of time: a busy machine is no fault of the code.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def needs():
    """Skip a test that cannot run here; on CI, where everything is installed, fail instead."""

    def check(available, reason):
        if not available:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)

    return check
