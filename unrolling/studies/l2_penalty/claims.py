"""Section 6.1 and footnote 6: what penalties on the weights and on the logits' Hessian do (Table 3)."""

import numpy as np
import pandas as pd

from unrolling.paper import Finding, NotTestable, replicate_band
from unrolling.runs.frames import trace_frame
from unrolling.store import Record
from unrolling.studies.decide import (
    Estimate,
    above,
    all_of,
    any_of,
    at_least,
    below,
    bootstrap,
    over_seeds,
    share_over_seeds,
)
from unrolling.studies.frames import after_steps
from unrolling.studies.l2_penalty.frames import (
    CELL,
    PENALTIES,
    against_plain,
    beside_table_3,
    printed_cells,
)
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise

PAGE = "07_l2_penalty"
RUNS = {"experiment": "l2_penalty", "part": ("plain", "l2", "weight_decay")}
READINGS = {"logit_hessian_trace": "sum of p (1 - p)", "logit_hessian": "sum of (p (1 - p))^2"}
#: What the released code trains, of the two.
RELEASED = "logit_hessian_trace"


def _runs(records: list[Record], *, at_the_end: bool) -> pd.DataFrame:
    """Return these runs against their plain ones after all steps, or else after one epoch, as Table 3's."""
    (steps,) = {record.result["steps" if at_the_end else "steps_per_epoch"] for record in records}
    return against_plain(after_steps(trace_frame(records), steps))


def _cells(runs: pd.DataFrame, column: str) -> dict[tuple, Estimate]:
    """Return the ratio of a column to that without penalty, by the values of a cell of Table 3."""
    logs = np.log(runs[column])
    return {
        cell: over_seeds(own, ratio_noise(column)).to(np.exp)
        for cell, own in logs.groupby([runs[name] for name in CELL], sort=False)
    }


def _span(estimates: list[Estimate]) -> str:
    """Return the smallest and the largest of these numbers, or the one that there is."""
    values = [own.value for own in estimates]
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _of_each_penalty(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs with each penalty at strengths within the range of Table 3."""
    largest = printed_cells()["gamma"].max()
    return {loss: runs[(runs["loss"] == loss) & (runs["gamma"] <= largest)] for loss in PENALTIES}


@check("S04", page=PAGE, **RUNS)
def no_strength_lowers_the_error_everywhere(records: list[Record]) -> Finding:
    """Ask of each strength in which setting it lowers e least."""
    of_loss = _of_each_penalty(_runs(records, at_the_end=True))
    every = {loss: _by_strength(_cells(own, "e_root")) for loss, own in of_loss.items()}
    sizes = [own for runs in of_loss.values() for own in _cells(runs, "e").values()]
    least = {
        (loss, gamma): max(own, key=lambda ratio: ratio.value)
        for loss, strengths in every.items()
        for gamma, own in strengths.items()
    }
    best = min(least, key=lambda strength: least[strength].value)
    cells = [own for strengths in every.values() for cell in strengths.values() for own in cell]
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: no strength lowers e by more than 10 % in all settings": all_of(
                any_of(at_least(ratio, 0.9) for ratio in own) for own in every[loss].values()
            )
            for loss in PENALTIES
        },
        value=least[best].value,
        value_is="e over e without penalty, roots of the eigenvalue, where the most consistent strength "
        "helps "
        "least, geometric mean over seeds",
        interval=least[best].interval,
        reason=f"e is more than 10 % lower in {sum(own.value < 0.9 for own in cells)} of {len(cells)} cells, "
        f"with the eigenvalue itself in {sum(own.value < 0.9 for own in sizes)}. The most consistent "
        "strength "
        f"is {best[1]:g} of {PENALTIES[best[0]]}.",
    )


def _by_strength(cells: dict[tuple, Estimate]) -> dict[float, list[Estimate]]:
    strengths: dict[float, list[Estimate]] = {}
    for cell, own in cells.items():
        strengths.setdefault(cell[-1], []).append(own)
    return strengths


@check("S05", page=PAGE, **RUNS)
def most_cells_have_a_larger_error(records: list[Record]) -> Finding:
    """Count the cells whose e is larger than without penalty, and by more than replicates differ."""
    of_loss = _of_each_penalty(_runs(records, at_the_end=False))
    larger = {
        loss: share_over_seeds(
            own["e_root"] > 1,
            own["seed"],
            list(own[["dataset", "model"]].itertuples(index=False, name=None)),
        )
        for loss, own in of_loss.items()
    }
    printed = printed_cells().query("gamma > 0").dropna()
    clearly = (printed["beyond"] > 0).mean()
    least = min(larger.values(), key=lambda share: share.value)
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: e is larger in more than half of the cells": above(share, 0.5)
            for loss, share in larger.items()
        },
        value=least.value,
        value_is="share of cells with a larger e, roots of the eigenvalue, the smaller of the two "
        "penalties', "
        "mean over seeds",
        interval=least.interval,
        reason="e is larger in "
        + " and in ".join(
            f"{100 * larger[loss].value:.0f} % ({name}; with the eigenvalue itself "
            f"{100 * (of_loss[loss]['e'] > 1).mean():.0f} %)"
            for loss, name in PENALTIES.items()
        )
        + f" of the cells. Of those printed {100 * (printed['ratio'] > 1).mean():.0f} % are larger, and "
        f"{100 * clearly:.0f} % by more than two runs of one configuration differ.",
    )


@check("S06", page=PAGE, **RUNS)
def without_pretraining_the_largest_strength_multiplies_the_error(records: list[Record]) -> Finding:
    """Take the ratio of e at N = 0 and lambda = 0.1 after one epoch, and beside it at the end."""
    after_epoch, sizes, after_all = (
        {
            loss: list(_cells(own.query("pretrain_epochs == 0 and gamma == 0.1"), column).values())
            for loss, own in _of_each_penalty(_runs(records, at_the_end=at_the_end)).items()
        }
        for column, at_the_end in (("e_root", False), ("e", False), ("e_root", True))
    )
    least = min((own for ratios in after_epoch.values() for own in ratios), key=lambda own: own.value)
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: e at least 5 times as large in all settings": all_of(
                at_least(own, 5) for own in ratios
            )
            for loss, ratios in after_epoch.items()
        },
        value=least.value,
        value_is="smallest ratio of e, roots of the eigenvalue, over settings and penalties after one epoch, "
        "geometric mean over seeds",
        interval=least.interval,
        reason="After one epoch the ratio is "
        + " and ".join(
            f"{_span(after_epoch[loss])} ({name}; with the eigenvalue itself {_span(sizes[loss])}, at the "
            "end "
            f"{_span(after_all[loss])})"
            for loss, name in PENALTIES.items()
        )
        + ".",
    )


@check("S07", page=PAGE, **RUNS)
def smaller_weights_do_not_move_less(records: list[Record]) -> Finding:
    """Look in each setting for a strength with smaller weights and no smaller change."""
    held: dict[str, dict[tuple, list[bool | None]]] = {}
    moved = []
    for loss, own in _of_each_penalty(_runs(records, at_the_end=True)).items():
        norms, changes = _cells(own, "weight_norm"), _cells(own, "weight_change")
        settings = held.setdefault(loss, {})
        for cell, norm in norms.items():
            does = all_of([below(norm, 0.9), at_least(changes[cell], 0.95)])
            settings.setdefault(cell[1:-1], []).append(does)
            if norm.value < 0.9:
                moved.append(changes[cell])
    shares = {
        loss: float(np.mean([any_of(own) is True for own in settings.values()]))
        for loss, settings in held.items()
    }
    seen = f"{_span(moved)} times as large" if moved else "not known, since it never does"
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: in each setting some strength does that": all_of(
                any_of(own) for own in settings.values()
            )
            for loss, settings in held.items()
        },
        value=min(shares.values()),
        value_is="share of settings with such a strength, the smaller of the two penalties'",
        reason=f"Where ||w_t|| falls below 0.9 of its value without penalty, the change is {seen}. By the "
        "triangle inequality ||w_t - w_0|| is at least ||w_0|| - ||w_t||: weights that shrink have to move.",
    )


@check("S08", page=PAGE, experiment="l2_penalty", part=("plain", "logit_hessian"))
def penalising_the_softmax_hessian_does_not_help(records: list[Record]) -> Finding | NotTestable:
    """Take the lowest e of the strengths that leave the accuracy within 3 points."""
    runs = _runs(records, at_the_end=True)
    lost = runs.groupby(CELL, sort=False)["accuracy_lost"].mean()
    found, sizes, sigmas = (
        {
            loss: {
                cell: own for cell, own in _cells(runs, column).items() if cell[0] == loss and lost[cell] < 3
            }
            for loss in READINGS
        }
        for column in ("e_root", "e", "sigma_avg")
    )
    if not found[RELEASED]:
        return NotTestable("Every strength that was run costs 3 points of accuracy or more.")
    lowest = min(found[RELEASED].values(), key=lambda own: own.value)
    return Finding(
        propositions={
            "no strength that costs less than 3 points lowers e below 0.9": all_of(
                at_least(own, 0.9) for own in found[RELEASED].values()
            )
        },
        value=lowest.value,
        value_is="lowest e over e without penalty, roots of the eigenvalue, among those strengths, geometric "
        "mean over seeds",
        interval=lowest.interval,
        reason=f"The penalty is the {READINGS[RELEASED]}, the trace, as in the released code; with those "
        f"strengths e is {_span([*found[RELEASED].values()])} times as large as without, with the eigenvalue "
        f"itself {_span([*sizes[RELEASED].values()])}, and sigma {_span([*sigmas[RELEASED].values()])} "
        "times. "
        + (
            f"Of the other reading, the {READINGS['logit_hessian']}, e is "
            f"{_span([*found['logit_hessian'].values()])} times as large."
            if found["logit_hessian"]
            else f"Of the other reading, the {READINGS['logit_hessian']}, every strength costs more."
        ),
    )


@check("S09", page=PAGE, **RUNS, profile="paper")
def the_numbers_of_table_3(records: list[Record]) -> Finding:
    """Compare e with every cell of Table 3, with the square root in sigma that text and code have."""
    (epoch,) = {record.result["steps_per_epoch"] for record in records}
    cells = beside_table_3(records, epoch)
    shares = {}
    for loss, own in cells.groupby("loss"):
        near = own["within"].to_numpy(dtype=float)
        trajectories = list(own[["dataset", "model", "gamma"]].itertuples(index=False, name=None))
        shares[loss] = bootstrap(
            lambda taken, near=near: float(np.average(near, weights=taken)), trajectories
        )
    widest = replicate_band(int(cells["seeds"].min()))[1]
    largest = max(shares.values(), key=lambda share: share.value)
    return Finding(
        propositions={
            "at least 80 % of the cells agree, under one of the two penalties": any_of(
                at_least(share, 0.8) for share in shares.values()
            )
        },
        value=largest.value,
        value_is="share of cells that agree, the larger of the two penalties'",
        interval=largest.interval,
        reason=f"{100 * shares['l2'].value:.0f} % agree with the penalty as printed, "
        f"{100 * shares['weight_decay'].value:.0f} % with weight decay as released; agreement allows a "
        "factor "
        f"of {widest:.2f}. The interval is a bootstrap over the trainings.",
    )
