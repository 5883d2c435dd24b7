"""Runs as tables: what they recorded over their steps, at their end, after whole epochs."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unrolling._checks import InputError, check_integer
from unrolling.runs.config import config_from
from unrolling.store import Record

#: What :func:`after_epochs` takes over from a result; the rest of it is about the last step.
_MEASURED_ONCE = ("forget_gradient_norm", "num_classes", "accuracy_pretrained")


def settings_of(record: Record) -> dict[str, Any]:
    """Return all settings of a run, those at their defaults as well, which a record may leave out."""
    return dataclasses.asdict(config_from(record.config))


def trace_frame(records: Iterable[Record]) -> pd.DataFrame:
    r"""Return the runs' traces in long form: a row per recorded step.

    Returns:
        ``step``, t; ``e``, ``e_corrected`` and ``e_targeted``, see :mod:`unrolling.unlearning_error`, and
        what they are made of, ``weight_change``, :math:`\|w_t - w_0\|_2`, and ``sigma_avg``; ``e_root`` and
        ``sigma_root``, e and sigma_avg with the square roots of the sampled :math:`|\lambda|_{\max}`, as
        section 5.2 words it and every e of the paper is printed;
        ``weight_norm``, :math:`\|w_t\|_2`; ``v`` after single-gradient unlearning, ``v_final_gradient``,
        ``v_amnesiac``, ``v_amnesiac_released`` and ``v_nothing``, of w_t itself, see the table in
        :mod:`unrolling.runs.unlearned`, and ``v_momentum`` where the t steps have momentum; ``accuracy`` of M
        and ``accuracy_retrained`` of M' on the test data, from 0 to 1; every setting of :class:`RunConfig`;
        and ``address``.
    """
    frames = [
        pd.DataFrame(_trace(record, record.result["trace"]["step"])).assign(
            **settings_of(record), address=record.address
        )
        for record in records
    ]
    return pd.concat(frames, ignore_index=True)


def _trace(record: Record, steps: Sequence[int]) -> dict[str, list[float]]:
    """Return what a run recorded at these of its steps, and its e and sigma_avg from roots."""
    trace = record.result["trace"]
    places = [trace["step"].index(step) for step in steps]
    kept = {name: [values[place] for place in places] for name, values in trace.items()}
    kept["sigma_root"] = [sigma_from_roots(record, step) for step in steps]
    kept["e_root"] = [error_from_roots(record, step) for step in steps]
    return kept


def final_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per run: its last recorded step, and what was measured once.

    Returns:
        The columns of :func:`trace_frame`, every setting among them; ``forget_gradient_norm``, that of F's
        part in the gradient of one epoch at w_0; ``accuracy_pretrained`` of M_N and ``accuracy_unlearned``
        after single-gradient unlearning; ``pretrain_steps``, ``steps``, ``steps_per_epoch``, ``num_classes``
        and ``num_parameters``; ``sigma_converged``, whether all samples of sigma met their tolerance, and
        ``sigma_hvps``, the Hessian-vector products of all of them.
    """
    rows = []
    for record in records:
        last = {name: value for name, (value,) in _trace(record, record.result["trace"]["step"][-1:]).items()}
        scalars = {name: value for name, value in record.result.items() if not isinstance(value, dict)}
        rows.append({**scalars, **last, **settings_of(record), "address": record.address})
    return pd.DataFrame(rows)


def after_epochs(records: Sequence[Record], num_epochs: int = 1) -> pd.DataFrame:
    r"""Return one row per run: what it recorded after that many epochs from w_0 on.

    Args:
        records: The runs; they may have different batch sizes, hence different numbers of steps an epoch.
        num_epochs: m; its end must be a recorded step of every run.

    Returns:
        The columns of :func:`trace_frame`, every setting among them; and of those of :func:`final_frame`
        ``forget_gradient_norm``, ``num_classes`` and ``accuracy_pretrained``.
    """
    check_integer("num_epochs", num_epochs, minimum=1)
    rows = []
    for record in records:
        trace, t = record.result["trace"], num_epochs * record.result["steps_per_epoch"]
        if t not in trace["step"]:
            raise InputError(
                f"run {record.address} has no row at step {t}, the end of epoch {num_epochs}; "
                f"recorded steps are {trace['step']}."
            )
        row = {name: value for name, (value,) in _trace(record, [t]).items()}
        row |= {name: record.result[name] for name in _MEASURED_ONCE if name in record.result}
        rows.append({**row, **settings_of(record), "address": record.address})
    return pd.DataFrame(rows)


def sigma_from_roots(record: Record, num_steps: int) -> float:
    r"""Return the mean of :math:`\sqrt{|\lambda|_{max}}` over the samples of sigma before a step.

    That is the sigma_avg behind every e that the paper prints. The released code has :math:`\sqrt{\lambda}`,
    NaN where the dominant eigenvalue is negative.

    Args:
        record: A run.
        num_steps: t.
    """
    return float(np.sqrt(_sizes(record, num_steps)).mean())


def error_from_roots(record: Record, num_steps: int) -> float:
    r"""Return Eq. 9 with :func:`sigma_from_roots` for sigma, the square root of text and code.

    Eq. 9 is linear in sigma_avg, so this is the recorded e times the quotient of the two means.

    Args:
        record: A run.
        num_steps: t; a recorded step.
    """
    trace = record.result["trace"]
    error, size = trace["e"][trace["step"].index(num_steps)], float(_sizes(record, num_steps).mean())
    return error * sigma_from_roots(record, num_steps) / size if size else error


def _sizes(record: Record, num_steps: int) -> NDArray[np.float64]:
    """Return the sampled dominant eigenvalues of the first ``num_steps`` steps, without their sign."""
    sigma = record.result["sigma"]
    pairs = zip(sigma["step"], sigma["eigenvalue"], strict=True)
    return np.abs([eigenvalue for step, eigenvalue in pairs if step < num_steps])
