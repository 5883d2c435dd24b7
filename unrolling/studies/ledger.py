"""The claims ledger: which check decides a claim, on which runs, and with what verdict.

A check is a function of a module of a study, ``claims.py`` as a rule. It needs one line to take part::

    @check("T13", page="03_unrolling_sgd")
    def first_sum_does_not_depend_on_the_order() -> Finding: ...

    @check("S01", page="04_unlearning_error", experiment="unlearning_error", part="settings")
    def unlearning_error_grows_linearly(records: list[Record]) -> Finding: ...

The first kind computes what it needs. The second kind gets the stored runs of that part, or of several parts
together, of the largest profile with at least one seed whole, in every setting. It gets seeds 0, 1, ...
up to the first that is not, never some settings of a seed, and nothing is trained for it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from importlib import import_module
from pkgutil import walk_packages
from typing import NamedTuple

import unrolling.studies as studies
from unrolling._checks import InputError, check_choice
from unrolling.paper import Claim, Entry, Finding, NotTestable, claims, find_claim
from unrolling.runs.collect import by_config, default_store, published_store
from unrolling.runs.config import RunConfig
from unrolling.runs.profiles import PROFILES, load_profile
from unrolling.store import Record
from unrolling.studies.decide import ENOUGH_SEEDS
from unrolling.studies.noise import seed_noise

Result = Finding | NotTestable


class Check(NamedTuple):
    """A claim's check: its function, the page that discusses the claim, the runs it is about."""

    function: Callable[..., Result]
    page: str
    experiment: str | None = None
    part: str | tuple[str, ...] = ()
    profile: str = "any"


_CHECKS: dict[str, Check] = {}


def check(
    id: str,
    *,
    page: str,
    experiment: str | None = None,
    part: str | tuple[str, ...] = (),
    profile: str = "any",
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register a function as the check of a claim.

    Args:
        id: The claim.
        page: The notebook that discusses it, without ending.
        experiment: The experiment whose runs the function takes, as a list of records; none if it takes none.
        part: The grid of that experiment, or several whose runs come together.
        profile: Of a check that takes no runs, the profile whose scale it computes at, where that matters; of
            one that takes runs, the only profile whose runs can decide it, as ``paper`` for printed numbers.
    """
    find_claim(id)

    def register(function: Callable[..., Result]) -> Callable[..., Result]:
        if id in _CHECKS:
            raise InputError(f"claim {id} has a check already: {_CHECKS[id].function.__qualname__}.")
        _CHECKS[id] = Check(function, page, experiment, part, profile)
        return function

    return register


def error_text(error: float) -> str:
    """Return an error for a sentence; a rounding error without its digits, which hold nowhere else.

    Example:
        >>> error_text(2e-16), error_text(0.0123)
        ('less than 1e-12', '0.01')
    """
    return "less than 1e-12" if abs(error) < 1e-12 else f"{error:.1g}"


@cache
def _import_checks() -> None:
    for module in walk_packages(studies.__path__, f"{studies.__name__}."):
        if not module.name.endswith(".figures"):  # the ledger works without matplotlib
            import_module(module.name)


def all_checks() -> dict[str, Check]:
    """Return the registered checks by claim, in the order of the ledger."""
    _import_checks()
    return {id: _CHECKS[id] for id in claims() if id in _CHECKS}


def claims_of_page(page: str) -> list[str]:
    """Return the ids of the claims that a notebook discusses."""
    pages = {found.page for found in all_checks().values()}
    check_choice("page with claims", page, sorted(pages))
    return [id for id, found in all_checks().items() if found.page == page]


def evaluate(ids: Iterable[str] | None = None, *, profile: str | None = None) -> list[Entry]:
    """Check claims and return their entries in the ledger.

    Args:
        ids: The claims; all by default.
        profile: Use the runs of this profile only. By default each claim gets the largest one that is there.
    """
    profiles = PROFILES[::-1] if profile is None else (check_choice("profile", profile, PROFILES),)
    shelf = _Shelf()
    return [_evaluate(find_claim(id), profiles, shelf) for id in (claims() if ids is None else ids)]


class _Shelf:
    """The runs that are there already, committed or computed here, each read once."""

    @cached_property
    def _own(self) -> dict[RunConfig, Record]:
        return by_config(default_store())

    @cached_property
    def _published(self) -> dict[str, dict[RunConfig, Record]]:
        return {profile: by_config(published_store(profile)) for profile in PROFILES}

    def runs(self, found: Check, profile: str) -> list[Record]:
        """Return the runs that a check needs in a profile, of all seeds up to the first that is not whole."""
        experiments = load_profile(profile).experiments
        if found.experiment not in experiments:
            return []
        experiment = experiments[found.experiment]
        parts = {found.part} if isinstance(found.part, str) else set(found.part)
        if not experiment.parts.keys() >= parts:  # a data set that only a larger profile has
            return []
        configs = experiment.configs(found.part)
        there = self._own | self._published[profile]
        missing = min((config.seed for config in configs if config not in there), default=math.inf)
        return [there[config] for config in configs if config.seed < missing]


def _evaluate(claim: Claim, profiles: Sequence[str], shelf: _Shelf) -> Entry:
    found = all_checks().get(claim.id)
    if found is None:
        return Entry(claim, "not yet run", "No check has been written for it yet.")
    if found.experiment is None:
        return _entry(claim, found, found.function(), found.profile, ())
    for profile in profiles:
        if found.profile not in ("any", profile):
            continue
        records = shelf.runs(found, profile)
        if records:
            return _entry(claim, found, found.function(records), profile, records)
    parts = found.part if isinstance(found.part, str) else ", ".join(found.part)
    missing = f"No profile has all of its runs ({found.experiment}, {parts}), not even with one seed."
    return Entry(claim, "not yet run", missing, page=found.page)


def _entry(claim: Claim, found: Check, result: Result, profile: str, records: Sequence[Record]) -> Entry:
    runs = tuple(record.address for record in records)
    num_seeds = len({record.config["seed"] for record in records})
    if isinstance(result, NotTestable):
        return Entry(claim, "not testable here", result.reason, page=found.page)
    verdict, reason = result.verdict, result.reason
    if 0 < num_seeds < ENOUGH_SEEDS:
        reason += (
            f" Of {num_seeds} seed{'s' * (num_seeds > 1)}: a level or a ratio counts beyond twice the spread "
            f"between seeds of the small profile, {seed_noise('e_root'):.2f} of log e from roots and "
            f"{seed_noise('accuracy'):.1f} points of accuracy; an order by a bootstrap over trainings."
        )
    if claim.scale == "paper" and profile != "paper":
        reason = f"Not run at the paper's scale. The {profile} profile alone would say {verdict}: {reason}"
        verdict = "not yet run"
    return Entry(claim, verdict, reason, result, profile, runs, found.page, num_seeds)
