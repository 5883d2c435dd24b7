r"""Figure 3 and what lies beyond it: how e grows, what it costs, how far unlearning reaches."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from unrolling._checks import InputError
from unrolling.runs.frames import trace_frame
from unrolling.store import Record

#: The three forms of the unlearning error, as columns of a trace and as the pages name them.
FORMS = {"e": "e", "e_corrected": "e/η", "e_targeted": "e*"}

_RUN = ["address", "dataset", "model", "seed"]


def linearity(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return how linear :math:`e` is in t, a row per run.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.

    Returns:
        The run's address, data set, model and seed; ``r_squared`` of the straight line fitted to e over t;
        ``spearman``, the rank correlation of t and e.
    """
    rows = []
    for run, trace in traces.groupby(_RUN, sort=False):
        if len(trace) < 3:
            raise InputError(f"a line needs at least 3 recorded steps, run {run[0]} has {len(trace)}.")
        rows.append(
            dict(zip(_RUN, run, strict=True))
            | {
                "r_squared": float(np.corrcoef(trace["step"], trace["e"])[0, 1] ** 2),
                "spearman": float(stats.spearmanr(trace["step"], trace["e"]).statistic),
            }
        )
    return pd.DataFrame(rows)


def halving(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return what half of the steps leave of the unlearning error, :math:`e(t / 2) / e(t)`.

    Were e proportional to t, all would be one half.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.

    Returns:
        A row per run and recorded step t whose half was recorded as well: the run's address, data set, model
        and seed, ``step``, and the ratio as ``halved``.
    """
    columns = [*_RUN, "step", "e"]
    half = traces[columns].assign(step=2 * traces["step"])
    both = traces[columns].merge(half, on=[*_RUN, "step"], suffixes=("", "_half"))
    return both.assign(halved=both["e_half"] / both["e"])[[*_RUN, "step", "halved"]]


def break_even(points: pd.DataFrame) -> pd.DataFrame:
    r"""Return from which size on single-gradient unlearning can be worse than doing nothing.

    Args:
        points: What :func:`reach` returns.

    Returns:
        A row per model and seed: ``size``, the smallest :math:`\eta t \sigma_{avg}` of a point with a ratio
        of at least 1, and ``largest``, the largest of any point. ``size`` is NaN where no ratio reaches 1.
    """
    rows = []
    for (model, seed), own in points.groupby(["model", "seed"], sort=False):
        harmful = own.loc[own["ratio"] >= 1, "size"]
        rows.append({"model": model, "seed": seed, "size": harmful.min(), "largest": own["size"].max()})
    return pd.DataFrame(rows)


def growth(records: Iterable[Record]) -> pd.DataFrame:
    """Return the runs' traces with the column ``setting``, "model, data set", a panel of Figure 3."""
    traces = trace_frame(records)
    return traces.assign(setting=traces["model"] + ", " + traces["dataset"])


def doublings(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return the powers of two in :math:`e(t) / e(t / 2)` at the last step t, factor by factor.

    Args:
        traces: What :func:`growth` returns.

    Returns:
        A row per run: ``setting``; ``e``, :math:`\log_2` of the ratio; and those of its three factors,
        ``steps``, :math:`(t - 1) / (t / 2 - 1)`, ``weight_change`` and ``sigma_avg``. Their sum is ``e``.
    """
    rows = []
    for _, run in traces.groupby("address", sort=False):
        run = run.set_index("step")
        end = run.index.max()
        last, half = run.loc[end], run.loc[end // 2]
        rows.append(
            {"setting": last["setting"], "steps": np.log2((end - 1) / (end // 2 - 1))}
            | {name: np.log2(last[name] / half[name]) for name in ("e", "weight_change", "sigma_avg")}
        )
    return pd.DataFrame(rows)


def costs(records: Iterable[Record]) -> pd.DataFrame:
    """Return what the samples of sigma cost, a row per setting, its runs together.

    A sample is a gradient, whose graph is kept, and k Hessian-vector products; a product counts as two
    gradients, and retraining is a gradient a step.

    Returns:
        ``setting``; ``weights``, their number; ``products`` and ``gradients``, k and 1 + 2k, per sample;
        ``of_retraining``, the cost of all samples over that of retraining; and ``every_200``, the same at one
        sample in 200 steps, the spacing of the released code.
    """
    rows: dict[str, list[Record]] = {}
    for run in records:
        rows.setdefault(f"{run.config['model']}, {run.config['dataset']}", []).append(run)
    table = []
    for setting, runs in rows.items():
        samples = sum(len(run.result["sigma"]["step"]) for run in runs)
        products = sum(run.result["sigma_hvps"] for run in runs) / samples
        gradients = 1 + 2 * products
        table.append(
            {
                "setting": setting,
                "weights": runs[0].result["num_parameters"],
                "products": products,
                "gradients": gradients,
                "of_retraining": gradients * samples / sum(run.result["steps"] for run in runs),
                "every_200": gradients / 200,
            }
        )
    return pd.DataFrame(table)


def every_other(record: Record) -> float:
    """Return by which factor, 1 or more, sigma_avg differs between the odd and the even samples of a run."""
    sigma = np.abs(record.result["sigma"]["eigenvalue"])
    return float(np.exp(abs(np.log(sigma[1::2].mean() / sigma[::2].mean()))))
