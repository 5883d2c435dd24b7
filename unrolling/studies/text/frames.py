r"""Table 2 and Figure 10: what the SD loss does to e, v and the accuracy of a text classifier."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from unrolling.losses import gamma_from_released
from unrolling.metrics.association import Correlation, correlate
from unrolling.metrics.intervals import rank_correlation, t_interval
from unrolling.runs import after_epochs
from unrolling.runs.frames import trace_frame
from unrolling.store import Record
from unrolling.studies.frames import (
    SETTING,
    accuracy_loss,
    labels,
    logs_within,
    relative_to_plain,
    seed_means,
)
from unrolling.studies.influence_of_pretraining.frames import cells
from unrolling.studies.printed import printed_rows


def by_scale(records: Sequence[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs after one epoch: those with gamma in the units of Eq. 10, those in the released code's.

    Args:
        records: Runs with the losses ``sd`` and ``sd_released`` at the same numbers.
    """
    rows = after_epochs(records)
    own, released = (rows[rows["loss"] == loss].reset_index(drop=True) for loss in ("sd", "sd_released"))
    return own, released


def relative(rows: pd.DataFrame) -> pd.DataFrame:
    r"""Return runs beside what they are compared with.

    Args:
        rows: A row per run of one setting. The printed ones have no ``loss`` and no ``v_nothing``, and their
            strengths are taken for those of Eq. 10.

    Returns:
        The same rows with ``strength``, gamma in the units of Eq. 10; ``e_ratio``, ``v_ratio`` and ``kept``,
        e, v and the accuracy over those of the same seed without a penalty; ``against_nothing``, v over that
        of doing nothing, NaN where that is not known; and ``percent``, the accuracy.
    """
    released = rows.get("loss", pd.Series("sd", rows.index)) == "sd_released"
    weaker = rows["gamma"].map(lambda gamma: gamma_from_released(gamma, 2))
    return rows.assign(
        strength=rows["gamma"].mask(released, weaker),
        e_ratio=relative_to_plain(rows, "e"),
        v_ratio=relative_to_plain(rows, "v"),
        kept=relative_to_plain(rows, "accuracy"),
        against_nothing=rows["v"] / rows.get("v_nothing", math.nan),
        percent=100 * rows["accuracy"],
    )


def beside_table_2(rows: pd.DataFrame) -> pd.DataFrame:
    r"""Return the cells of Table 2, and what is printed there.

    Args:
        rows: A row per run of one setting, as :func:`by_scale` returns them.

    Returns:
        A row per strength and ``quantity`` (e; ratio, which is :math:`e(\gamma) / e(0)`; v; accuracy as a
        fraction): ``gamma``; ``mean``, ``low`` and ``high``, the mean over seeds with its 95 % t-interval,
        of the ratio on logarithms; ``seeds``; and ``printed``, NaN if Table 2 has no such strength. One
        seed has no interval: low and high are then NaN.
    """
    ours, printed = (
        frame.assign(ratio=relative_to_plain(frame, "e")) for frame in (rows, printed_rows("table2"))
    )
    cells_printed = printed.set_index("gamma")
    found = []
    for gamma, own in ours.groupby("gamma"):
        for quantity in ("e", "ratio", "v", "accuracy"):
            mean, low, high = t_interval(own[quantity], log=quantity == "ratio")
            known = cells_printed[quantity].get(gamma, math.nan)
            found.append((gamma, quantity, mean, low, high, len(own), known))
    return pd.DataFrame(found, columns=["gamma", "quantity", "mean", "low", "high", "seeds", "printed"])


def figure_10(rows: pd.DataFrame) -> dict[str, Correlation]:
    """Return how closely e and v go together over the strengths, by what it is taken of.

    With three seeds or more the interval of the runs is over seeds, as the strengths of one seed share their
    randomness; all intervals are rough ones, of so few points.

    Args:
        rows: A row per run of one setting, as :func:`by_scale` returns them.
    """
    means = seed_means(rows, ["e", "v"])
    inside = logs_within(rows, ["e", "v"], ["seed"])
    clusters = labels(rows, ["seed"]) if rows["seed"].nunique() >= 3 else None
    return {
        "seed means": correlate(means["e"], means["v"]),
        "ranks of the seed means": correlate(means["e"], means["v"], method="spearman"),
        "logarithms within seeds": correlate(inside["e"], inside["v"], clusters=clusters),
    }


def prices(rows: pd.DataFrame, column: str = "e") -> pd.DataFrame:
    r"""Return what each strength does to e and what it costs, by setting and gamma > 0, seeds taken together.

    Args:
        rows: A row per run, of one setting or several.
        column: The column of e.

    Returns:
        What :func:`~unrolling.studies.influence_of_pretraining.frames.cells` returns, and ``points``, the
        loss of accuracy of :math:`M_{N+t}`.
    """
    return cells(rows, column).merge(accuracy_loss(rows).reset_index(name="points"), on=[*SETTING, "gamma"])


def cheapest(costs: pd.DataFrame, ratio: float) -> float:
    """Return the smallest loss of accuracy in points among the strengths that leave at most ``ratio`` of e.

    Args:
        costs: What :func:`prices` returns, of one setting.
        ratio: Of e with the penalty to e without; at least one strength must get there.
    """
    return float(costs.loc[costs["ratio"] <= ratio, "points"].min())


def over_epochs(records: Sequence[Record]) -> pd.DataFrame:
    """Return the accuracy after each epoch from w_0 on, in points: a row per seed, a column per epoch.

    Args:
        records: Runs of one setting that recorded the end of every epoch.
    """
    (per_epoch,) = {record.result["steps_per_epoch"] for record in records}
    traces = trace_frame(records)
    ends = traces[traces["step"] % per_epoch == 0]
    return 100 * ends.assign(epoch=ends["step"] // per_epoch).pivot(
        index="seed", columns="epoch", values="accuracy"
    )


def masks_apart(cases: pd.DataFrame) -> pd.Series:
    """Return how many times as far apart M and M' end with masks of their own as with shared ones, by seed.

    Args:
        cases: A row per run of one setting, with dropout of both kinds.
    """
    apart = cases.pivot(index="seed", columns="dropout", values="v_nothing")
    return apart["independent"] / apart["shared"]


def ranks_by_seed(frames: Sequence[pd.DataFrame], column: str) -> NDArray[np.float64]:
    """Return the rank correlation of the strength and a column: a row per frame, a column per seed."""
    return np.array(
        [[rank_correlation(own["gamma"], own[column]) for _, own in rows.groupby("seed")] for rows in frames]
    )


def judge(parts: ArrayLike) -> str:
    """Return what runs say of a statement: "holds", "does not hold" or "not decided".

    It holds if it does in every run, and it does not hold if one part of it fails in every run.

    Args:
        parts: Whether each part holds in each run: a row per part, a column per run.

    Example:
        >>> judge([[True, True], [True, False]])  # the second part fails in one run only
        'not decided'
    """
    held = np.asarray(parts, dtype=bool)
    if held.all():
        return "holds"
    return "does not hold" if (~held).all(axis=1).any() else "not decided"
