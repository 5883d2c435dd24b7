"""Matrices of the taxonomy by name of their settings: from the store if they are there, computed if not."""

import time
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import torch

from unrolling._checks import DataError, InputError, check_choice, check_integer, check_real
from unrolling.data import DATASETS, Dataset
from unrolling.methods.registry import METHODS
from unrolling.metrics.registry import METRICS
from unrolling.runs.collect import default_store, published_store
from unrolling.runs.inputs import load_images
from unrolling.runs.profiles import PROFILES, Scalar
from unrolling.runs.provenance import provenance
from unrolling.runs.stored import must_be_computed, stored_fingerprints
from unrolling.seeding import make_generator
from unrolling.store import Record, Store, canonical, make_address
from unrolling.studies.taxonomy.scores import (
    UNIT_BALL,
    Setting,
    choose_classes,
    into_unit_ball,
    run_matrix,
    words_for_classes,
)
from unrolling.surroundings import threads

#: Raised by one whenever a change of the code changes the numbers of a matrix with unchanged settings.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class MatrixConfig:
    """What decides the numbers of a matrix, and nothing else.

    Attributes:
        dataset: A name of :func:`unrolling.load_dataset`.
        classes: Those of its classes that take part, numbered anew in this order; empty for all.
        train_size: Training examples, a seeded subset, or as many as there are.
        test_size: The same for the test examples.
        setting: What is trained and forgotten.
        seeds: One problem for each.
        methods: Names of methods.
        metrics: Names of metrics.
    """

    dataset: str
    classes: tuple[int, ...]
    train_size: int
    test_size: int
    setting: Setting
    seeds: tuple[int, ...]
    methods: tuple[str, ...] = tuple(METHODS)
    metrics: tuple[str, ...] = tuple(METRICS)

    def __post_init__(self) -> None:
        check_integer("train_size", self.train_size, minimum=1)
        check_integer("test_size", self.test_size, minimum=1)
        for name in self.methods:
            check_choice("method", name, METHODS)
        for name in self.metrics:
            check_choice("metric", name, METRICS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they come back from JSON."""
        plain = {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()
        }
        return plain | {"setting": asdict(self.setting), "dtype": "float64", "version": VERSION}


def matrix_config(
    parameters: Mapping[str, Scalar], *, methods: tuple[str, ...] = tuple(METHODS), **changes: Scalar
) -> MatrixConfig:
    r"""Return a matrix from parameters of the page, such as those of a profile.

    Args:
        parameters: The fields of :class:`Setting` but ``delta``, which is :math:`10^{-5}`; the data's
            ``dataset``, ``classes``, as in ``"3 8"``, ``train_size`` and ``test_size``; ``seed``, the first,
            and ``num_seeds``. Others are left aside.
        methods: Names of methods, all by default.
        changes: Parameters to take instead.
    """
    given = {"delta": 1e-5, **parameters, **changes}
    first = check_integer("seed", given["seed"])
    num_seeds = check_integer("num_seeds", given["num_seeds"], minimum=1)
    return MatrixConfig(
        dataset=check_choice("data set", given["dataset"], DATASETS),
        classes=read_classes("classes", given["classes"]),
        train_size=check_integer("train_size", given["train_size"], minimum=1),
        test_size=check_integer("test_size", given["test_size"], minimum=1),
        setting=Setting(**{field.name: _as_declared(field, given[field.name]) for field in fields(Setting)}),
        seeds=tuple(range(first, first + num_seeds)),
        methods=methods,
    )


def read_classes(name: str, text: Scalar) -> tuple[int, ...]:
    """Return the classes that a parameter of the page names, as in ``"3 8"``; none for ``""``."""
    try:
        return tuple(map(int, text.split()))
    except (AttributeError, ValueError):
        raise InputError(
            f'{name} must be text of whole numbers with spaces between them, such as "3 8", or "" for all; '
            f"got {text!r} ({type(text).__name__})."
        ) from None


def _as_declared(field: Field, value: Scalar) -> Scalar:
    # 1 and 1.0 are one setting, and so one address.
    return check_real(field.name, value) if field.type is float else value


def matrix_data(config: MatrixConfig) -> Dataset:
    """Return the data of a matrix, in the unit ball."""
    return into_unit_ball(_examples(config)[0])


def _examples(config: MatrixConfig) -> tuple[Dataset, str]:
    """Return the examples of a matrix, and the fingerprint that its address is made from.

    That one is of the whole data set and of the choice of examples. Classes are part of the settings.
    """
    data = load_images(config.dataset)
    chosen = choose_classes(data, config.classes) if config.classes else data
    sizes = min(config.train_size, len(chosen.train_labels)), min(config.test_size, len(chosen.test_labels))
    examples, source = (
        part.subset(*sizes, make_generator(0, "subset"))
        for part in (chosen, replace(chosen, fingerprint=data.fingerprint))
    )
    return examples, source.fingerprint


def obtain_matrix(config: MatrixConfig, *, store: Store | None = None) -> Record:
    """Return a matrix from the store; one that is not there yet is computed.

    Args:
        config: The matrix.
        store: Where to look and to write. If not given, the folder ``taxonomy`` of
            :func:`~unrolling.runs.default_store`; it is looked for among the committed ones, too.
    """
    committed = [] if store else [_taxonomy(published_store(profile)) for profile in PROFILES]
    store = store or _taxonomy(default_store())
    places, settings = (store, *committed), config.to_dict()
    try:
        examples, fingerprint = _examples(config)
    except DataError as reason:
        known = stored_fingerprints({canonical(settings): reason}, canonical, places)
        if not known:
            raise must_be_computed(1, 1, "tables", reason) from reason
        (fingerprint,) = known.values()
    else:
        data = into_unit_ball(examples)
    address = make_address(settings, fingerprint)
    for place in places:
        if found := place.get(address):
            return _described(found)
    store.check_writable()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    with threads(1):
        cells, methods = run_matrix(
            data,
            config.setting,
            config.seeds,
            {name: METHODS[name] for name in config.methods},
            {name: METRICS[name] for name in config.metrics},
        )
    record = Record(
        config=config.to_dict(),
        data={"name": data.name, "description": data.description, "fingerprint": fingerprint},
        result={"cells": _to_plain(cells), "methods": _to_plain(methods)},
        provenance=provenance(torch.device("cpu"), started, time.perf_counter() - clock),
    )
    store.put(record)
    return record


def published_matrix(config: MatrixConfig, profile: str) -> Record | None:
    """Return the committed matrix of a profile with these settings; nothing is computed, or loaded.

    Its methods and metrics may be fewer: a new one should not hide what the others have shown.
    """

    def problem(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name not in ("methods", "metrics")}

    wanted = problem(config.to_dict())
    committed = _taxonomy(published_store(profile))
    return next((_described(record) for record in committed if problem(record.config) == wanted), None)


def _described(record: Record) -> Record:
    """Return a matrix whose data say what was made of the data set; the first ones stored name the whole."""
    said, classes = record.data["description"], record.config["classes"]
    parts = [*([words_for_classes(classes)] if classes else []), UNIT_BALL]
    description = "; ".join([said, *(part for part in parts if part not in said)])
    return replace(record, data=record.data | {"description": description})


def matrix_tables(record: Record) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of :func:`~unrolling.studies.taxonomy.scores.run_matrix` from a stored matrix."""
    return _to_frame(record.result["cells"]), _to_frame(record.result["methods"])


def _taxonomy(store: Store) -> Store:
    """Return the matrices beside a store's runs, which have other settings and results."""
    return Store(store.root / "taxonomy")


def _to_plain(frame: pd.DataFrame) -> dict[str, list]:
    """Return a table as JSON can hold it, NaN as null."""
    values = frame.astype(object).where(frame.notna(), None)
    return {"columns": list(frame.columns), "rows": values.to_numpy().tolist()}


def _to_frame(table: Mapping[str, list]) -> pd.DataFrame:
    frame = pd.DataFrame(table["rows"], columns=table["columns"])
    # A column of nulls alone has no type of its own.
    return frame.fillna(float("nan")).infer_objects()
