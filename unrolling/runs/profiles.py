"""The profiles: which runs make a figure, at which scale. Their files are the only place with grids."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from unrolling._checks import InputError, check_choice, check_integer
from unrolling.runs.config import RunConfig, config_from

#: From the smallest scale to the paper's own.
PROFILES = ("quick", "small", "narrow", "paper-jpeg", "paper")

#: Seeds at most of a setting; the paper has one.
MOST_SEEDS = 1000

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Experiment:
    """The runs behind one notebook in one profile.

    Attributes:
        notebook: The notebook's name, without ending.
        parameters: What the notebook exposes to its reader: settings of the runs, ``num_seeds``, and
            ``device``, where they are computed, which is no setting.
        fixed: Settings of the runs that the notebook does not expose.
        parts: Named grids, a list of values per setting.
    """

    notebook: str
    parameters: dict[str, Scalar]
    fixed: dict[str, Scalar]
    parts: dict[str, dict[str, list[Scalar]]]

    def configs(self, part: str | Iterable[str], **changes: Scalar) -> list[RunConfig]:
        """Return the runs of one grid, or of several together, each run once.

        Args:
            part: The grid's name, or several names.
            changes: The notebook's parameters, where they differ from the profile's.

        Raises:
            InputError: If a parameter, the grid or a setting does not exist.
        """
        for name in changes:
            check_choice("parameter", name, self.parameters)
        settings = {**self.fixed, **self.parameters, **changes}
        num_seeds = check_integer("num_seeds", settings.pop("num_seeds"), minimum=1, maximum=MOST_SEEDS)
        settings.pop("device", None)
        configs = []
        if not isinstance(part, Iterable):
            check_choice("part", part, self.parts)
        for name in (part,) if isinstance(part, str) else part:
            check_choice("part", name, self.parts)
            grid = self.parts[name] | {"seed": list(range(num_seeds))}
            configs += [
                config_from(settings | dict(zip(grid, point, strict=True)))
                for point in itertools.product(*grid.values())
            ]
        return list(dict.fromkeys(configs))


@dataclass(frozen=True)
class Profile:
    """One scale at which the whole book can be run.

    Attributes:
        name: One of :data:`PROFILES`.
        description: What it needs, in one line.
        experiments: By name.
        notebooks: Parameters of the notebooks that have no experiment.
    """

    name: str
    description: str
    experiments: dict[str, Experiment]
    notebooks: dict[str, dict[str, Scalar]]

    def experiment(self, name: str) -> Experiment:
        """Return an experiment by name."""
        return self.experiments[check_choice("experiment", name, self.experiments)]


def load_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        InputError: If it is unknown, or its file is not written as :class:`Experiment` wants it.
    """
    return _load_profile(check_choice("profile", name, PROFILES))


@cache
def _load_profile(name: str) -> Profile:
    return parse_profile(name, _source(name), f"profiles/{name}.yml")


def _source(name: str) -> str:
    return files("unrolling.runs").joinpath("profiles", f"{name}.yml").read_text(encoding="utf-8")


def parse_profile(name: str, text: str, source: str) -> Profile:
    """Return the profile that a YAML file describes.

    A file with the part ``like`` says only how its profile differs from another one: ``datasets``, which data
    sets take the place of which (null: none does, and grids on them are empty); ``settings`` of all runs; and
    ``experiments``, in which grids, parameters and settings differ.

    Args:
        name: Its name.
        text: The file's content.
        source: The file, for messages.

    Raises:
        InputError: If a part is missing, has another type or a name that does not exist.
    """
    content = read_yaml(text, source)
    if isinstance(content, dict) and "like" in content:
        check_parts(source, content, _DIFFERENCES)
        base = check_choice(f"profile that {source} is like", content["like"], PROFILES)
        content = _with_differences(name, read_yaml(_source(base), f"profiles/{base}.yml"), content, source)
    check_parts(source, content, {"description": str, "experiments": dict, "notebooks": dict})
    for key, parts in content["experiments"].items():
        check_parts(f"experiment {key!r} of {source}", parts, _PARTS)
    return Profile(
        name=name,
        description=content["description"],
        experiments={key: Experiment(**parts) for key, parts in content["experiments"].items()},
        notebooks=content["notebooks"],
    )


def read_yaml(text: str, source: str) -> Any:
    """Return what a YAML text says; ``source`` is where it stands, for the message if it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is no YAML: {' '.join(str(error).split())}.") from error


def _with_differences(
    name: str, base: dict[str, Any], differences: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Return the content of a profile that is like another one."""
    datasets = differences["datasets"]

    def other(value: Scalar) -> list[Scalar]:
        return [datasets[value]] * (datasets[value] is not None) if value in datasets else [value]

    experiments = base["experiments"]
    for experiment in experiments.values():
        experiment["parts"] = {
            part: {
                setting: [new for value in values for new in other(value)] if setting == "dataset" else values
                for setting, values in grid.items()
            }
            for part, grid in experiment["parts"].items()
        }
        experiment["parameters"]["dataset"] = other(experiment["parameters"]["dataset"])[0]
        experiment["fixed"] |= differences["settings"]
    for key, parts in differences["experiments"].items():
        own = experiments[check_choice(f"experiment of {source}", key, experiments)]
        check_parts(f"experiment {key!r} of {source}", parts, _PARTS, whole=False)
        for kind, changed in parts.items():
            own[kind] = own[kind] | changed if isinstance(changed, dict) else changed
    notebooks = {page: parameters | {"profile": name} for page, parameters in base["notebooks"].items()}
    for parameters in notebooks.values():
        parameters |= {"dataset": other(parameters["dataset"])[0]} if "dataset" in parameters else {}
    return {"description": differences["description"], "experiments": experiments, "notebooks": notebooks}


_PARTS = {field.name: str if field.name == "notebook" else dict for field in dataclasses.fields(Experiment)}
_DIFFERENCES = {"description": str, "like": str, "datasets": dict, "settings": dict, "experiments": dict}


def check_parts(where: str, content: Any, expected: Mapping[str, type], *, whole: bool = True) -> None:
    """Raise unless ``content`` is a dict of parts of the expected types, and of all if it is ``whole``."""
    if not isinstance(content, dict):
        raise InputError(f"{where} must have the parts {', '.join(expected)}, got {type(content).__name__}.")
    for name in content:
        check_choice(f"part of {where}", name, expected)
    for name, kind in expected.items():
        if (whole or name in content) and not isinstance(content.get(name), kind):
            got = type(content[name]).__name__ if name in content else "nothing"
            raise InputError(f"{name!r} of {where} must be a {kind.__name__}, got {got}.")


def notebook_parameters(profile: str) -> dict[str, dict[str, Scalar]]:
    """Return what papermill passes to each notebook in a profile, by the notebook's name."""
    loaded = load_profile(profile)
    parameters = {e.notebook: {"profile": profile, **e.parameters} for e in loaded.experiments.values()}
    return parameters | loaded.notebooks
