"""Lists of runs in the order in which they are worth their time, for machines with some of it to spare."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unrolling._checks import InputError, check_choice, check_integer, shown
from unrolling.runs.config import RunConfig
from unrolling.runs.profiles import Scalar, check_parts, load_profile, read_yaml

#: The lists that come with the package, by name.
LISTS = ("narrow", "core")
#: What an entry has, and what it may have beside that.
_WHICH = {"experiment": str, "part": str, "seeds": list}
_SOME = {"where": dict, "without": dict}


@dataclass(frozen=True)
class RunList:
    """Runs of one profile, the most decisive first.

    Attributes:
        description: What they are, in one line.
        profile: Whose grids they are taken from, unless another one is asked for.
        entries: In order: ``experiment`` and ``part``, a grid of the profile; ``seeds``, which of them;
            ``where``, the values of settings that are taken, in their order; and ``without``, those that are
            left out. The last two may be missing.
    """

    description: str
    profile: str
    entries: tuple[Mapping[str, Any], ...]

    def configs(self, profile: str | None = None) -> list[RunConfig]:
        """Return the runs in their order, each once.

        Args:
            profile: Take the same grids of this profile, for example ``paper-jpeg`` for ``paper``.

        Raises:
            InputError: If an entry names what the profile does not have.
        """
        experiments = load_profile(profile or self.profile)
        found: list[RunConfig] = []
        for entry in self.entries:
            experiment = experiments.experiment(entry["experiment"])
            seeds = [check_integer("a seed of a list", seed) for seed in entry["seeds"]]
            configs = experiment.configs(entry["part"], num_seeds=max(seeds) + 1)
            out = entry.get("without", {}).items()
            configs = [
                c for c in configs if not any(getattr(c, name, None) in values for name, values in out)
            ]
            found += _taken(configs, {"seed": seeds} | entry.get("where", {}))
        return list(dict.fromkeys(found))


def _taken(configs: list[RunConfig], where: Mapping[str, list[Scalar]]) -> list[RunConfig]:
    """Return the runs whose settings are among those values, in their order, the first setting slowest."""
    for name, values in where.items():
        there = {getattr(config, name, None) for config in configs}
        if not isinstance(values, list) or not there.issuperset(values):
            raise InputError(
                f"{name} of a list must be some of {sorted(there, key=repr)}, got {shown(values)}."
            )
    places = [(name, {value: place for place, value in enumerate(values)}) for name, values in where.items()]
    kept = [config for config in configs if all(getattr(config, name) in place for name, place in places)]
    return sorted(kept, key=lambda config: [place[getattr(config, name)] for name, place in places])


def load_list(name: str) -> RunList:
    """Return a list of runs.

    Args:
        name: One of :data:`LISTS`, or a YAML file of the same form.

    Raises:
        InputError: If there is none, or it is not written as :class:`RunList` wants it.
    """
    if name in LISTS:
        return _parse(files("unrolling.runs").joinpath("lists", f"{name}.yml").read_text("utf-8"), name)
    if not name.endswith((".yml", ".yaml")):
        check_choice("list of runs", name, LISTS)
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list of runs {shown(name)}: {error}.") from error
    return _parse(text, name)


def _parse(text: str, source: str) -> RunList:
    where = f"the list {source}"
    content = read_yaml(text, where)
    check_parts(where, content, {"description": str, "profile": str, "runs": list})
    for entry in content["runs"]:
        check_parts(f"a run of {where}", entry, _WHICH | _SOME, whole=False)
        check_parts(f"a run of {where}", {k: v for k, v in entry.items() if k in _WHICH}, _WHICH)
        if not entry["seeds"]:
            raise InputError(f"'seeds' of a run of {where} must name a seed, got none.")
    return RunList(content["description"], content["profile"], tuple(content["runs"]))
