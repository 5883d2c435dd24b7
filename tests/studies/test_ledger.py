"""The claims ledger: every claim once, verdicts that follow from what was measured, runs by profile."""

import dataclasses
import hashlib
import itertools
import json

import pytest

from unrolling._checks import InputError
from unrolling.page import ledger as page_ledger
from unrolling.paper import KINDS, VERDICTS, Entry, Finding, NotTestable, claims, count_verdicts, find_claim
from unrolling.paper.claims import Claim
from unrolling.runs import PROFILES, collect, load_profile, obtain, published_store
from unrolling.runs.profiles import Experiment, Profile
from unrolling.studies import ledger
from unrolling.studies.ledger import all_checks, check, claims_of_page, evaluate

HELD = Finding(propositions={"a": True, "b": True}, value=1.0, value_is="a number", reason="Both held.")
FAILED = dataclasses.replace(HELD, propositions={"a": False, "b": False})
HALF = dataclasses.replace(HELD, propositions={"a": True, "b": False})
PAPER_CLAIM, CLAIM = "E01", "K01"  # one about the paper's scale, one about any


@pytest.fixture
def registry(monkeypatch):
    """An empty registry of checks, in the place of the real one."""
    all_checks()  # the real checks must not register themselves later
    monkeypatch.setattr(ledger, "_CHECKS", {})


def register(id, result, **runs):
    check(id, page="a_page", **runs)(lambda *records: result)


# Claims and findings


def test_the_ledger_has_the_102_claims_and_each_is_whole():
    assert len(claims()) == 102
    for id, claim in claims().items():
        assert claim.id == id
        assert claim.kind in KINDS
        assert claim.scale in ("any", "paper")
        assert claim.chapter
        assert all(dataclasses.astuple(dataclasses.replace(claim, post_hoc="none"))), (
            f"{id} has an empty field"
        )
        assert claim.statement.endswith(".")


def test_a_criterion_that_was_changed_after_larger_runs_were_read_says_so(request):
    """criteria.json has the criteria as they were before, by digest: it is never written again."""
    before = json.loads((request.config.rootpath / "tests" / "criteria.json").read_text(encoding="utf-8"))
    for id, claim in claims().items():
        digest = hashlib.sha256(claim.criterion.encode()).hexdigest()[:12]
        assert (digest != before[id]) == bool(claim.post_hoc), (
            f"{id}: say in post_hoc.csv what was changed, and why"
        )


def test_what_was_changed_stands_on_the_claim():
    changed = dataclasses.replace(find_claim(CLAIM), post_hoc="it said 3; a slip")
    assert Entry(changed, "not yet run", "").to_dict()["post_hoc"] == "it said 3; a slip"
    assert (
        "Changed after larger runs were read: it said 3; a slip."
        in page_ledger([Entry(changed, "partly", "")]).data
    )


def test_chapters_are_sections_and_appendices():
    chapters = {claim.chapter for claim in claims().values()}
    assert chapters == {"§1", "§3", "§4", "§5", "§6", "§8", "§9", "App. A", "App. C"}


def test_claims_about_mathematics_and_counts_alone_can_be_decided_at_any_scale():
    assert {c.kind for c in claims().values() if c.scale == "any"} == {"theorem", "cost"}
    assert {c.kind for c in claims().values() if c.scale == "paper"} == {*KINDS} - {"theorem"}


def test_verdicts_follow_from_the_propositions():
    assert [finding.verdict for finding in (HELD, HALF, FAILED)] == ["reproduced", "partly", "contradicted"]


@pytest.mark.parametrize("held", list(itertools.product([True, False, None], repeat=3)))
def test_what_is_open_leaves_a_verdict_undecided_unless_it_is_the_same_either_way(held):
    def verdict(held):
        return dataclasses.replace(HELD, propositions=dict(zip("abc", held, strict=True))).verdict

    closed = itertools.product(*([True, False] if part is None else [part] for part in held))
    possible = {verdict(parts) for parts in closed}
    assert verdict(held) == (possible.pop() if len(possible) == 1 else "undecided")


@pytest.mark.parametrize("propositions", [{}, {"a": "yes"}, {"a": 1}])
def test_a_finding_without_a_proper_proposition_is_refused(propositions):
    with pytest.raises(InputError, match="must map the parts of a claim to True, False or None"):
        dataclasses.replace(HELD, propositions=propositions)


@pytest.mark.parametrize("change", [{"value": float("nan")}, {"interval": (0.0, float("inf"))}])
def test_a_finding_that_is_no_number_is_refused(change):
    with pytest.raises(InputError, match="finite numbers"):
        dataclasses.replace(HELD, **change)


def test_unknown_claims_are_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="unknown claim 'T33'"):
        find_claim("T33")
    with pytest.raises(InputError, match="unknown claim 'T99'"):
        check("T99", page="a_page")
    with pytest.raises(InputError, match="unknown profile 'larg'"):
        evaluate(["T01"], profile="larg")


# Evaluation


def test_without_a_check_a_claim_is_not_yet_run(registry):
    (entry,) = evaluate([CLAIM])
    assert (entry.verdict, entry.finding, entry.profile) == ("not yet run", None, None)


def test_a_check_that_needs_no_runs_decides_its_claim(registry):
    register(CLAIM, HALF)
    (entry,) = evaluate([CLAIM])
    assert entry == Entry(find_claim(CLAIM), "partly", "Both held.", HALF, "any", (), "a_page")


def test_what_a_check_computes_at_a_small_scale_does_not_decide_a_claim_about_the_papers(registry):
    register(PAPER_CLAIM, HELD, profile="quick")
    (entry,) = evaluate([PAPER_CLAIM])
    assert (entry.verdict, entry.profile, entry.finding) == ("not yet run", "quick", HELD)
    assert "The quick profile alone would say reproduced" in entry.reason


def test_a_claim_has_one_check(registry):
    register(CLAIM, HELD)
    with pytest.raises(InputError, match=f"claim {CLAIM} has a check already"):
        register(CLAIM, FAILED)


def test_what_cannot_be_tested_says_why(registry):
    register(CLAIM, NotTestable("It needs a GPU."))
    (entry,) = evaluate([CLAIM])
    assert (entry.verdict, entry.reason) == ("not testable here", "It needs a GPU.")


def test_pages_know_their_claims_in_the_order_of_the_ledger(registry):
    register("T02", HELD)
    register("T01", HELD)
    assert claims_of_page("a_page") == ["T01", "T02"]
    with pytest.raises(InputError, match="unknown page with claims 'another'"):
        claims_of_page("another")


TINY = {"experiment": "tiny", "part": "part"}


@pytest.fixture
def runs(registry, tmp_path, monkeypatch):
    """The configurations of a tiny experiment in each profile; none has been run."""
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    fixed = {"dataset": "digits", "train_size": 32, "test_size": 20, "model": "linear", "batch_size": 16}
    fixed |= {"pretrain_epochs": 0, "gamma": 0.0}
    profiles = {}
    rates = {"quick": [0.1], "small": [0.1, 0.2], "narrow": [0.3], "paper-jpeg": [0.4], "paper": [0.2]}
    for name, learning_rates in rates.items():
        parts = {"part": {"learning_rate": learning_rates}}
        if name == "paper":
            parts["other data"] = {"learning_rate": learning_rates}
        profiles[name] = Profile(name, "", {"tiny": Experiment("a_page", {"num_seeds": 1}, fixed, parts)}, {})
    monkeypatch.setattr(ledger, "load_profile", profiles.__getitem__)
    return {name: profile.experiment("tiny").configs("part") for name, profile in profiles.items()}


def test_missing_runs_leave_a_claim_undecided_and_nothing_is_trained(runs):
    register(CLAIM, HELD, **TINY)
    (entry,) = evaluate([CLAIM])
    assert (entry.verdict, entry.finding) == ("not yet run", None)
    assert "tiny, part" in entry.reason


def test_runs_of_the_largest_profile_that_is_whole_are_used(runs):
    register(CLAIM, HELD, **TINY)
    (quick,) = obtain(runs["quick"])
    (entry,) = evaluate([CLAIM])  # of the two runs of `small` one is there
    assert (entry.verdict, entry.profile, entry.runs) == ("reproduced", "quick", (quick.address,))
    (paper,) = obtain(runs["paper"])
    (entry,) = evaluate([CLAIM])
    assert (entry.profile, entry.runs) == ("paper", (paper.address,))
    (entry,) = evaluate([CLAIM], profile="small")
    assert entry.runs == (quick.address, paper.address)


def test_the_first_whole_seeds_are_used_and_counted(runs, monkeypatch):
    """Seed 1 misses a run: seed 2 does not count, and with seed 0 incomplete nothing does."""
    profile = ledger.load_profile("small")
    seeds = dataclasses.replace(profile.experiment("tiny"), parameters={"num_seeds": 3})
    monkeypatch.setattr(
        ledger, "load_profile", {name: Profile(name, "", {"tiny": seeds}, {}) for name in PROFILES}.get
    )
    configs = seeds.configs("part")  # two rates by three seeds
    register(CLAIM, HELD, **TINY)
    there = {record.config["seed"]: record.address for record in obtain(configs[:3])}
    (entry,) = evaluate([CLAIM], profile="small")
    assert entry.verdict == "not yet run"
    (first,) = obtain([config for config in configs[3:] if config.seed == 0])
    (entry,) = evaluate([CLAIM], profile="small")
    assert (entry.num_seeds, set(entry.runs)) == (1, {there[0], first.address})
    obtain([config for config in configs[3:] if config.seed == 2])
    (entry,) = evaluate([CLAIM], profile="small")
    assert (entry.num_seeds, len(entry.runs)) == (1, 2)
    obtain(configs)
    (entry,) = evaluate([CLAIM], profile="small")
    assert (entry.num_seeds, len(entry.runs)) == (3, 6)
    assert entry.to_dict()["num_seeds"] == 3


def test_a_part_that_only_one_profile_has_is_looked_for_there(runs):
    register(CLAIM, HELD, **TINY | {"part": "other data"})
    obtain(runs["quick"])
    (entry,) = evaluate([CLAIM])
    assert entry.verdict == "not yet run"
    obtain(runs["paper"])
    (entry,) = evaluate([CLAIM])
    assert (entry.verdict, entry.profile) == ("reproduced", "paper")


def test_a_quick_run_does_not_decide_a_claim_about_the_papers_scale(runs):
    register(PAPER_CLAIM, FAILED, **TINY)
    obtain(runs["quick"])
    (entry,) = evaluate([PAPER_CLAIM])
    assert (entry.verdict, entry.profile, entry.finding) == ("not yet run", "quick", FAILED)
    assert "The quick profile alone would say contradicted" in entry.reason
    obtain(runs["paper"])
    (entry,) = evaluate([PAPER_CLAIM])
    assert (entry.verdict, entry.profile) == ("contradicted", "paper")
    assert entry.reason.startswith(f"{FAILED.reason} Of 1 seed: ")


def test_runs_of_several_parts_come_together_and_each_once(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "empty"))
    seen = []
    parts = ("settings", "validity_perceptrons")
    check(CLAIM, page="a_page", experiment="unlearning_error", part=parts)(
        lambda records: seen.extend(records) or HELD
    )
    evaluate([CLAIM])
    experiment = load_profile("small").experiment("unlearning_error")
    wanted = [config.to_dict() for part in parts for config in experiment.configs(part)]
    found = [record.config for record in seen]
    assert all(found.count(config) == 1 for config in wanted)
    assert all(config in wanted for config in found)


def test_a_claim_that_one_profile_decides_is_left_open_by_the_others(runs):
    register(CLAIM, HELD, **TINY, profile="paper")
    obtain(runs["small"])  # the runs of `paper` are among them
    (entry,) = evaluate([CLAIM], profile="small")
    assert (entry.verdict, entry.finding) == ("not yet run", None)
    (entry,) = evaluate([CLAIM])
    assert (entry.verdict, entry.profile) == ("reproduced", "paper")


def test_committed_results_count_as_runs(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "empty"))
    seen = []
    check(CLAIM, page="a_page", experiment="training_with_sd_loss", part="strength")(
        lambda records: seen.extend(records) or HELD
    )
    (entry,) = evaluate([CLAIM])
    wanted = load_profile("small").experiment("training_with_sd_loss").configs("strength")
    assert entry.profile == "small"
    assert [record.config for record in seen] == [config.to_dict() for config in wanted]


def test_a_committed_run_goes_before_ones_own(runs, tmp_path, monkeypatch):
    """What the repository says does not depend on what was tried here, on other data say, and when."""
    monkeypatch.setattr(collect, "PROJECT", tmp_path)
    seen = []
    check(CLAIM, page="a_page", **TINY)(lambda records: seen.extend(records) or HELD)
    (own,) = obtain(runs["quick"])
    committed = dataclasses.replace(
        own,
        data=own.data | {"fingerprint": "other data"},
        provenance=own.provenance | {"started": "2020-01-01T00:00:00+00:00"},
    )
    published_store("quick").put(committed)
    (entry,) = evaluate([CLAIM])
    assert (seen, entry.runs) == ([committed], (committed.address,))
    (entry,) = evaluate([CLAIM], profile="paper")  # the committed runs of another profile do not count
    assert entry.verdict == "not yet run"
    obtain(runs["paper"])
    (entry,) = evaluate([CLAIM], profile="small")
    assert entry.runs[0] == own.address


# The real checks


def test_every_check_belongs_to_a_notebook_of_the_book(request):
    notebooks = {path.stem for path in (request.config.rootpath / "notebooks").glob("*.ipynb")}
    assert {found.page for found in all_checks().values()} <= notebooks


def test_entries_are_json_with_the_promised_keys(registry):
    register(CLAIM, dataclasses.replace(HELD, interval=(0.5, 1.5)))
    written = json.loads(json.dumps([entry.to_dict() for entry in evaluate()]))
    assert [row["id"] for row in written] == list(claims())
    promised = {"id", "section", "kind", "statement", "reported", "verdict"}
    promised |= {"value", "interval", "profile", "runs", "reason"}
    assert all(promised <= row.keys() and row["verdict"] in VERDICTS for row in written)
    row = written[list(claims()).index(CLAIM)]
    assert (row["value"], row["interval"], row["profile"], row["runs"]) == (1.0, [0.5, 1.5], "any", [])


def test_counts_name_every_verdict():
    entries = [Entry(Claim(*"abcdefgh"), verdict, "") for verdict in ("partly", "partly", "not yet run")]
    assert count_verdicts(entries) == dict(zip(VERDICTS, (0, 2, 0, 0, 0, 1), strict=True))
