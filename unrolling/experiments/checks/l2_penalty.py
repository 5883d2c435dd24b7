"""Section 6.1 and footnote 6: what penalties on the weights and on the logits' Hessian do (Table 3)."""

import pandas as pd

from unrolling.experiments.collect import trace_frame
from unrolling.experiments.l2_penalty import (
    PENALTIES,
    SETTING,
    against_plain,
    beside_table_3,
    cell_means,
    printed_cells,
)
from unrolling.experiments.ledger import check
from unrolling.experiments.training_with_sd_loss import after_steps
from unrolling.paper import Finding, NotTestable, replicate_band
from unrolling.store import Record

PAGE = "13_l2_penalty"
RUNS = {"experiment": "l2_penalty", "part": ("plain", "l2", "weight_decay")}
READINGS = {"logit_hessian": "sum of (p (1 - p))^2", "logit_hessian_trace": "sum of p (1 - p)"}


def _means(records: list[Record], *, at_the_end: bool) -> pd.DataFrame:
    """Return the cells of these runs after all of their steps, or else after one epoch, as Table 3's."""
    (steps,) = {record.result["steps" if at_the_end else "steps_per_epoch"] for record in records}
    return cell_means(against_plain(after_steps(trace_frame(records), steps)))


def _span(values: pd.Series) -> str:
    """Return the smallest and the largest of these numbers, or the one that there is."""
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"


def _of_each_penalty(means: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the cells of each penalty at strengths within the range of Table 3."""
    largest = printed_cells()["gamma"].max()
    return {loss: means[(means["loss"] == loss) & (means["gamma"] <= largest)] for loss in PENALTIES}


@check("S04", page=PAGE, **RUNS)
def no_strength_lowers_the_error_everywhere(records: list[Record]) -> Finding:
    """Ask of each strength in which setting it lowers e least."""
    cells = _of_each_penalty(_means(records, at_the_end=True))
    least = {loss: own.groupby("gamma")["e"].max() for loss, own in cells.items()}
    best = min(least, key=lambda loss: least[loss].min())
    gamma = least[best].idxmin()
    lowered = sum(int((own["e"] < 0.9).sum()) for own in cells.values())
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: no strength lowers e by more than 10 % in all settings": bool(
                (least[loss] >= 0.9).all()
            )
            for loss in PENALTIES
        },
        value=float(least[best].min()),
        value_is="e over e without penalty where the most consistent strength helps least, mean over seeds",
        reason=f"e is more than 10 % lower in {lowered} of {sum(map(len, cells.values()))} cells. The most "
        f"consistent strength is {gamma:g} of {PENALTIES[best]}.",
    )


@check("S05", page=PAGE, **RUNS)
def most_cells_have_a_larger_error(records: list[Record]) -> Finding:
    """Count the cells whose e is larger than without penalty, and by more than replicates differ."""
    cells = _of_each_penalty(_means(records, at_the_end=False))
    larger = {loss: float((own["e"] > 1).mean()) for loss, own in cells.items()}
    printed = printed_cells().query("gamma > 0").dropna()
    clearly = (printed["beyond"] > 0).mean()
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: e is larger in more than half of the cells": share > 0.5
            for loss, share in larger.items()
        },
        value=min(larger.values()),
        value_is="share of cells with a larger e, the smaller of the two penalties'",
        reason="e is larger in "
        + " and in ".join(f"{100 * larger[loss]:.0f} % ({name})" for loss, name in PENALTIES.items())
        + f" of the cells. Of those printed {100 * (printed['ratio'] > 1).mean():.0f} % are larger, and "
        f"{100 * clearly:.0f} % by more than two runs of one configuration differ.",
    )


@check("S06", page=PAGE, **RUNS)
def without_pretraining_the_largest_strength_multiplies_the_error(records: list[Record]) -> Finding:
    """Take the ratio of e at N = 0 and lambda = 0.1 after one epoch, and beside it at the end."""
    after_epoch, after_all = (
        {
            loss: own.query("pretrain_epochs == 0 and gamma == 0.1")["e"]
            for loss, own in _of_each_penalty(_means(records, at_the_end=at_the_end)).items()
        }
        for at_the_end in (False, True)
    )
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: e at least 5 times as large in all settings": bool((ratios >= 5).all())
            for loss, ratios in after_epoch.items()
        },
        value=float(min(ratios.min() for ratios in after_epoch.values())),
        value_is="smallest ratio of e over settings and penalties after one epoch, mean over seeds",
        reason="After one epoch the ratio is "
        + " and ".join(
            f"{_span(after_epoch[loss])} ({name}; at the end {_span(after_all[loss])})"
            for loss, name in PENALTIES.items()
        )
        + ".",
    )


@check("S07", page=PAGE, **RUNS)
def smaller_weights_do_not_move_less(records: list[Record]) -> Finding:
    """Look in each setting for a strength with smaller weights and no smaller change."""
    cells = _of_each_penalty(_means(records, at_the_end=True))
    shares = {}
    for loss, own in cells.items():
        smaller = own["weight_norm"] < 0.9
        found = own.assign(found=smaller & (own["weight_change"] >= 0.95))
        shares[loss] = float(found.groupby(SETTING)["found"].any().mean())
    everything = pd.concat(cells.values())
    moved = everything.loc[everything["weight_norm"] < 0.9, "weight_change"]
    seen = f"{_span(moved)} times as large" if len(moved) else "not known, since it never does"
    return Finding(
        propositions={
            f"{PENALTIES[loss]}: in each setting some strength does that": share == 1
            for loss, share in shares.items()
        },
        value=min(shares.values()),
        value_is="share of settings with such a strength, the smaller of the two penalties'",
        reason=f"Where ||w_t|| falls below 0.9 of its value without penalty, the change is {seen}. By the "
        "triangle inequality ||w_t - w_0|| is at least ||w_0|| - ||w_t||: weights that shrink have to move.",
    )


@check("S08", page=PAGE, experiment="l2_penalty", part=("plain", "logit_hessian"))
def penalising_the_softmax_hessian_does_not_help(records: list[Record]) -> Finding | NotTestable:
    """Take the lowest e of the strengths that leave the accuracy within 3 points."""
    means = _means(records, at_the_end=True)
    cheap = means[means["accuracy_lost"] < 3]
    lowest = cheap.groupby("loss")["e"].min()
    if set(lowest.index) != set(READINGS):
        return NotTestable("Every strength that was run costs 3 points of accuracy or more.")
    return Finding(
        propositions={
            f"{reading}: no strength that costs less than 3 points lowers e below 0.9": bool(
                lowest[loss] >= 0.9
            )
            for loss, reading in READINGS.items()
        },
        value=float(lowest.min()),
        value_is="lowest e over e without penalty among those strengths, mean over seeds",
        reason=f"With them e is {_span(cheap['e'])} times, and sigma {_span(cheap['sigma_avg'])} times as "
        "large as without.",
    )


@check("S09", page=PAGE, **RUNS, profile="paper")
def the_numbers_of_table_3(records: list[Record]) -> Finding:
    """Compare e with every cell of Table 3, with the square root in sigma that text and code have."""
    (epoch,) = {record.result["steps_per_epoch"] for record in records}
    cells = beside_table_3(records, epoch)
    shares = cells.groupby("loss")["within"].mean()
    widest = replicate_band(int(cells["seeds"].min()))[1]
    return Finding(
        propositions={
            "at least 80 % of the cells agree, under one of the two penalties": bool(shares.max() >= 0.8)
        },
        value=float(shares.max()),
        value_is="share of cells that agree, the larger of the two penalties'",
        reason=f"{100 * shares['l2']:.0f} % agree with the penalty as printed, "
        f"{100 * shares['weight_decay']:.0f} % with weight decay as released; agreement allows a factor of "
        f"{widest:.2f}.",
    )
