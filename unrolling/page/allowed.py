"""What the parameters of a page may be: checked before the page computes anything."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache, partial
from typing import Any

from unrolling._checks import DataError, InputError, check_choice, check_integer, check_real
from unrolling.data import DATASETS, load_dataset
from unrolling.models import takes_tokens
from unrolling.runs.collect import choose_device
from unrolling.runs.config import RunConfig, config_from
from unrolling.runs.profiles import Scalar, load_profile, notebook_parameters
from unrolling.studies.taxonomy.matrices import matrix_config, read_classes

_whole = partial(partial, check_integer)
#: What parameters may be that are no settings of a run; those know their own ranges.
_RANGES: dict[str, Callable[[str, Any], object]] = {
    "seed": _whole(maximum=2**31 - 1),
    "num_seeds": _whole(minimum=1, maximum=10_000),
    "num_epochs": _whole(minimum=1, maximum=10_000),
    "grid_points": _whole(minimum=2, maximum=1_000),
    "noise": partial(check_real, above=0),
}
#: The same for one page, where its own numbers need more.
_RANGES_OF_PAGES: dict[str, dict[str, Callable[[str, Any], object]]] = {
    # compares 10 and 30 steps with more of them
    "03_unrolling_sgd": {"num_steps": _whole(minimum=31, maximum=10_000)},
    # reads off step 30
    "08_sd_loss": {"num_steps": _whole(minimum=30, maximum=1_000_000)},
    # two steps an epoch, of batches of 32
    "06_beyond_the_first_sum": {"train_size": _whole(minimum=64)},
}
#: Pages that compare runs at the ends of epochs.
_COMPARES_EPOCHS = (
    "09_training_with_sd_loss",
    "11_proxy",
    "07_l2_penalty",
    "10_influence_of_pretraining",
    "17_amnesiac",
)


def page_parameters(page: str, profile: str = "quick") -> dict[str, Scalar]:
    """Return the parameters of a notebook with their values in a profile; its defaults are those of quick.

    Args:
        page: The notebook's name, without ending.
        profile: The profile.
    """
    known = notebook_parameters(profile)
    return dict(known[check_choice("page", page, known)])


def check_page(page: str, values: Mapping[str, Any]) -> None:
    """Raise unless a notebook can run with these parameters, as far as can be told without its data.

    Args:
        page: The notebook's name, without ending.
        values: All of its parameters.

    Raises:
        InputError: If one is unknown or missing, or its type or value does not fit. The message is one line.
    """
    defaults = page_parameters(page)
    for name in values:
        check_choice(f"parameter of {page}", name, defaults)
    for name, default in defaults.items():
        if name not in values:
            raise InputError(f"parameter {name!r} of {page} is missing: give it a value such as {default!r}.")
        _check_type(name, values[name], default)
    for name, check in (_RANGES | _RANGES_OF_PAGES.get(page, {})).items():
        if name in values:
            check(name, values[name])
    profile = load_profile(values["profile"])
    _check_kinds(defaults, values)
    settings = {field.name for field in fields(RunConfig)}.intersection(values)
    of_page = config_from({name: values[name] for name in settings})
    if "device" in values:
        choose_device(values["device"], of_page)
    if of_page.train_size:
        _check_batches(of_page, of_page.train_size)
    size_of = cache(_size_of)
    for experiment in profile.experiments.values():
        if experiment.notebook == page:
            own = {name: values[name] for name in experiment.parameters if name in values}
            for part in experiment.parts:
                compared = page in _COMPARES_EPOCHS and part != "steps"  # those are read at every step
                for config in experiment.configs(part, **own):
                    _check_run(config, size_of, compared)
    if page == "01_taxonomy":
        matrix_config(values)
        read_classes("net_classes", values["net_classes"])


def _check_run(config: RunConfig, size_of: Callable[[str], int], compared: bool) -> None:
    """Raise unless the run has the batches it forgets and, if it is ``compared``, records ends of epochs."""
    recording = compared and config.record_every > 0 and config.epochs > 1  # the last step always is
    size = config.train_size or (size_of(config.dataset) if recording else 0)
    if size:
        _check_batches(config, size)
        if recording:
            _check_recording(config, size)


def _check_batches(config: RunConfig, size: int) -> None:
    """Raise unless ``size`` training examples make the batches that the run forgets."""
    batch, needed = config.batch_size, config.forget_batch + config.forget_count
    if size < batch:
        raise InputError(f"batch_size must be at most train_size, got {batch} and {size}.")
    if needed > math.ceil(size / batch):
        raise InputError(
            f"train_size must make {needed} batches an epoch for what is forgotten on this page, got {size} "
            f"examples in batches of {batch}."
        )


def _check_recording(config: RunConfig, size: int) -> None:
    """Raise unless the run records the end of an epoch of ``size`` training examples."""
    every, batch = config.record_every, config.batch_size
    if math.ceil(size / batch) % every:
        fits = max(1, size // (batch * every)) * batch * every
        raise InputError(
            f"train_size must be a multiple of {batch * every} on this page, whose runs record every {every} "
            f"steps of {batch} examples and are compared at the ends of epochs: take {fits}, got {size}."
        )


def _size_of(dataset: str) -> int:
    """Return how many training examples there are, 0 if the data are not here."""
    try:
        return len(load_dataset(dataset).train_labels)
    except DataError:  # runs that are stored are shown without them
        return 0


def _check_type(name: str, value: object, default: Scalar) -> None:
    """Raise unless ``value`` is what ``default`` is; a whole number may stand for a float."""
    if isinstance(default, str):
        if not isinstance(value, str):
            raise InputError(
                f"{name} must be text such as {default!r}, got {value!r} ({type(value).__name__}). "
                "For papermill text that looks like a number comes after -r, not -p."
            )
    elif isinstance(default, float):
        check_real(name, value)
    else:
        check_integer(name, value)


def _check_kinds(defaults: Mapping[str, Scalar], values: Mapping[str, Any]) -> None:
    """Raise unless the page's data set and model are of its kind: of images, or of texts."""
    if "dataset" not in defaults:
        return
    texts = DATASETS[str(defaults["dataset"])].texts
    kind, given = "texts" if texts else "images", values["dataset"]
    if DATASETS[check_choice("data set", given, DATASETS)].texts != texts:
        fit = ", ".join(name for name, source in DATASETS.items() if source.texts == texts)
        raise InputError(f"dataset must have {kind}, got {given!r}: expected one of {fit}.")
    if "model" in values and takes_tokens(values["model"]) != texts:
        raise InputError(f"model must read {kind}, as {defaults['model']!r} does, got {values['model']!r}.")
