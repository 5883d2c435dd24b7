"""The ledger's entries: what the paper claims, in our words, and what a check makes of it."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from unrolling._checks import InputError, check_choice

KINDS = ("theorem", "cost", "trend", "number", "correlation")
VERDICTS = ("reproduced", "partly", "contradicted", "undecided", "not testable here", "not yet run")


@dataclass(frozen=True)
class Claim:
    """One checkable statement of the paper.

    Attributes:
        id: A letter for the subject (T theory, S strawmen, E SD loss, A its influence, V verification error,
            P and R privacy risk, K costs) and a number.
        section: Where the paper says it.
        kind: One of :data:`KINDS`.
        scale: ``any`` if it can be decided at any size, as mathematics can; ``paper`` if it is about the
            paper's models and data, so that only runs of that size decide it.
        statement: What is claimed, in our words.
        reported: What the paper prints for it.
        setting: Where it is said to hold.
        criterion: When we say that it holds. What a proposition with an interval needs, and what one or two
            seeds can decide, is the same for all, see :mod:`unrolling.studies.decide`: a rank correlation
            counts in every seed, and of fewer than three seeds by a bootstrap over trainings.
        post_hoc: What the criterion was before runs larger than ``small`` had been read, and why it was
            changed after that; empty if it was not.
    """

    id: str
    section: str
    kind: str
    scale: str
    statement: str
    reported: str
    setting: str
    criterion: str
    post_hoc: str = ""

    @property
    def chapter(self) -> str:
        """The section's number without its subsections: ``§5.2, Eq. 7`` is in ``§5``."""
        (found,) = re.findall(r"^(?:App\. [A-Z]|§\d+)", self.section)
        return found


@cache
def claims() -> Mapping[str, Claim]:
    """Return all claims by id, in the order of the ledger."""
    changed = {row["id"]: row["post_hoc"] for row in _rows("post_hoc.csv")}
    return {row["id"]: Claim(**row, post_hoc=changed.get(row["id"], "")) for row in _rows("claims.csv")}


def _rows(name: str) -> list[dict[str, str]]:
    with files("unrolling.paper").joinpath(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def find_claim(id: str) -> Claim:
    """Return a claim by id."""
    return claims()[check_choice("claim", id, claims())]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the check of a claim found.

    Attributes:
        propositions: The parts of the claim as printed, and whether each held; None where the runs leave it
            open, as an interval does that holds the threshold. Never empty.
        value: The number that decided it.
        value_is: What that number is.
        interval: Its interval, where randomness was estimated.
        reason: What was found, and what holds instead if the claim does not.
    """

    propositions: Mapping[str, bool | None]
    value: float
    value_is: str
    interval: tuple[float, float] | None = None
    reason: str

    def __post_init__(self) -> None:
        if not self.propositions or not set(map(type, self.propositions.values())) <= {bool, type(None)}:
            raise InputError(
                "`propositions` must map the parts of a claim to True, False or None, "
                f"got {self.propositions!r}."
            )
        if not all(map(math.isfinite, (self.value, *(self.interval or ())))):
            raise InputError(f"a finding needs finite numbers, got {self.value} and {self.interval}.")

    @property
    def verdict(self) -> str:
        """``reproduced`` if every proposition held, ``contradicted`` if none did, ``partly`` if some did.

        What is open may turn out either way: where that would change the verdict, it is ``undecided``.
        """
        held = set(self.propositions.values())
        if {True, False} <= held:
            return "partly"
        if None in held:
            return "undecided"
        return "reproduced" if True in held else "contradicted"


@dataclass(frozen=True)
class NotTestable:
    """Why a claim cannot be checked here, whatever is run."""

    reason: str


@dataclass(frozen=True)
class Entry:
    """A line of the ledger: a claim and what is known about it.

    Attributes:
        claim: The claim.
        verdict: One of :data:`VERDICTS`.
        reason: Why.
        finding: What the check found; None if it did not run.
        profile: The profile whose runs were used; ``any`` if the check needs none, None if it did not run.
        runs: Addresses of those runs.
        num_seeds: How many seeds of each setting they are; 0 without runs.
        page: The notebook that discusses the claim, without ending; None if there is none yet.
    """

    claim: Claim
    verdict: str
    reason: str
    finding: Finding | None = None
    profile: str | None = None
    runs: tuple[str, ...] = ()
    page: str | None = None
    num_seeds: int = 0

    def to_dict(self) -> dict[str, object]:
        """Return the entry as ``unrolling claims --json`` prints it."""
        claim, found = self.claim, self.finding
        return {
            "id": claim.id,
            "section": claim.section,
            "kind": claim.kind,
            "statement": claim.statement,
            "reported": claim.reported,
            "setting": claim.setting,
            "criterion": claim.criterion,
            "post_hoc": claim.post_hoc,
            "verdict": self.verdict,
            "value": found and found.value,
            "value_is": found and found.value_is,
            "interval": found and found.interval,
            "propositions": found and dict(found.propositions),
            "profile": self.profile,
            "num_seeds": self.num_seeds,
            "runs": list(self.runs),
            "reason": self.reason,
            "page": self.page,
        }


def count_verdicts(entries: Iterable[Entry]) -> dict[str, int]:
    """Return how many entries have each verdict, in the order of :data:`VERDICTS`."""
    verdicts = [entry.verdict for entry in entries]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}
