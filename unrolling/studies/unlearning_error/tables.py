"""The tables of the two pages, row by row; a number over seeds stands with its 95 % t-interval."""

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from unrolling.metrics.intervals import t_interval
from unrolling.number_text import Missing
from unrolling.studies.unlearning_error.frames import FORMS, break_even, doublings, halving, linearity

Rows = list[dict[str, object]]


def cost_rows(costs: pd.DataFrame) -> Rows:
    """Return what :func:`~unrolling.studies.unlearning_error.frames.costs` found, as the page names it."""
    names = {
        "products": "products per sample",
        "gradients": "gradients per sample",
        "of_retraining": "e / retraining, here",
        "every_200": "every 200 steps",
    }
    return costs.rename(columns=names).to_dict("records")


def growth_rows(traces: pd.DataFrame) -> Rows:
    """Return how straight e is in each setting, what half of the steps leave, and the accuracy."""
    of_run = traces[["address", "setting"]].drop_duplicates()
    lines, halves = linearity(traces).merge(of_run), halving(traces).merge(of_run)
    end = traces["step"].max()
    rows = []
    for setting, own in traces.groupby("setting", sort=False):
        line, half = (found[found["setting"] == setting] for found in (lines, halves))
        rows.append(
            {
                "setting": setting,
                "R²": t_interval(line["r_squared"]),
                "rank corr.": t_interval(line["spearman"]),
                "e(t/2) / e(t), at the end": t_interval(half.loc[half["step"] == end, "halved"]),
                "acc. 1 epoch, %": t_interval(100 * own.loc[own["step"] == end // 5, "accuracy"]),
                "acc. 5 epochs, %": t_interval(100 * own.loc[own["step"] == end, "accuracy"]),
            }
        )
    return rows


def doubling_rows(traces: pd.DataFrame) -> Rows:
    """Return the powers of two in e(t) / e(t / 2) and in its three factors, for each setting."""
    names = {
        "e": "log₂ of e(t) / e(t/2)",
        "steps": "from t − 1",
        "weight_change": "from weight change",
        "sigma_avg": "from σ_avg",
    }
    return [
        {"setting": setting} | {name: t_interval(own[column]) for column, name in names.items()}
        for setting, own in doublings(traces).groupby("setting", sort=False)
    ]


def bound_rows(points: pd.DataFrame) -> Rows:
    """Return how often each form of e lies below v, for each network, and how far e* lies above.

    Args:
        points: What :func:`~unrolling.studies.unlearning_error.frames.reach` returns.
    """
    rows = []
    for network, own in points.groupby("model", sort=False):
        below = {
            f"{form} below v, %": 100 * float((own[column] < own["v"]).mean())
            for column, form in FORMS.items()
        }
        tightness, small = own["e_targeted"] / own["v"], own["size"] < 1
        rows.append(
            {"network": network, "points": len(own)}
            | below
            | {"median e*/v, size < 1": float(tightness[small].median())}
            | {"median e*/v, size ≥ 1": float(tightness[~small].median())}
        )
    return rows


def rank_correlations(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rank correlation of ``ratio`` with ``size``, ``learning_rate`` and ``step``, per network."""
    columns = ["size", "learning_rate", "step"]
    return pd.DataFrame(
        {
            network: {name: stats.spearmanr(own[name], own["ratio"]).statistic for name in columns}
            for network, own in points.groupby("model", sort=False)
        }
    ).T


def reach_rows(points: pd.DataFrame) -> Rows:
    """Return from which size on the update does harm, for each network, and what orders the points.

    Args:
        points: What :func:`~unrolling.studies.unlearning_error.frames.reach` returns.
    """
    limits, ranks, rows = break_even(points), rank_correlations(points), []
    for network, own in points.groupby("model", sort=False):
        sizes = limits.loc[limits["model"] == network, "size"]
        harmful = sizes.dropna()
        rows.append(
            {
                "network": network,
                "seeds with harm": f"{len(harmful)} of {len(sizes)}",
                "smallest harmful ηtσ": t_interval(harmful, log=True)
                if len(harmful)
                else Missing("no ratio reaches 1"),
                "median ratio, ηtσ < 1": float(own.loc[own["size"] < 1, "ratio"].median()),
                "rank corr. by ηtσ": float(ranks.loc[network, "size"]),
                "rank corr. by η": float(ranks.loc[network, "learning_rate"]),
                "rank corr. by t": float(ranks.loc[network, "step"]),
            }
        )
    return rows


def reading_rows(relative: Mapping[str, pd.DataFrame], order: Sequence[str]) -> Rows:
    """Return e under each reading of sigma, relative to the page's own.

    Args:
        relative: By network, e under each reading over that of the page, with end, low and high.
        order: The readings from top to bottom.
    """
    columns = {"end": "at the end", "low": "least", "high": "most"}
    return [
        {"reading": reading}
        | {
            f"{network}: {name}": float(table.loc[reading, column])
            for network, table in relative.items()
            for column, name in columns.items()
        }
        for reading in order
    ]


def spread_rows(spread: pd.DataFrame) -> Rows:
    """Return what :func:`~unrolling.studies.unlearning_error.spread.spread` found, as the page names it."""
    table = spread.assign(**{"most / median": spread["most"] / spread["median"]})
    names = {"deviation": "s.d. / mean", "needed": "samples for 10 %"}
    shown = ["network", "epochs", "least", "median", "most", "most / median", *names]
    return table[shown].rename(columns=names).to_dict("records")
