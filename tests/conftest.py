import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from workflow.staging import kernel_environment

ROOT = Path(__file__).resolve().parent.parent

# Kernels that nbval starts inherit this process's environment: the same run store as the book's.
os.environ.update(kernel_environment(ROOT))

#: What `make check` runs: these take some 50 seconds of one core together. All else is marked slow.
QUICK = {
    ROOT / "tests" / f"{name}.py"
    for name in (
        "data/test_data",
        "data/test_data_imdb",
        "data/test_data_reviews",
        "data/test_data_text",
        "data/test_data_text_folder",
        "methods/others/test_linear_propagation",
        "methods/others/test_method_amnesiac",
        "methods/others/test_method_certified_removal",
        "methods/others/test_method_fisher_scrubbing",
        "methods/others/test_method_linear_filtration",
        "methods/others/test_method_ntk_scrubbing",
        "methods/test_problem",
        "metrics/test_metric_likelihood_ratio",
        "metrics/test_metric_membership",
        "metrics/test_metric_outputs",
        "models/test_models",
        "models/test_models_text",
        "test_batches",
        "test_due",
        "test_floors",
        "test_forget_sets",
        "test_loading",
        "test_losses",
        "test_notebooks",
        "test_oracles",
        "test_paper",
        "test_probes",
        "test_seeding",
        "test_training",
        "test_unlearning_error",
    )
}


def pytest_ignore_collect(collection_path, config):
    """Spare `make check` the imports of what it would not run."""
    if config.option.markexpr == "not slow" and collection_path.is_file() and collection_path not in QUICK:
        return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path not in QUICK:
            item.add_marker(pytest.mark.slow)


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
