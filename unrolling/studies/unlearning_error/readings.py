"""Which singular value: one and the same run under several readings of sigma."""

from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from unrolling.curvature import top_singular_value
from unrolling.model_loss import batch_loss
from unrolling.parameters import distance, snapshot, trainable
from unrolling.seeding import make_generator
from unrolling.studies.unlearning_error.one_epoch import OneEpoch
from unrolling.trackers import Recorder, UnlearningTracker
from unrolling.training import train
from unrolling.unlearning_error import unlearning_error

#: The reading that the others are compared with.
THIS_PAGE = "this page"
_ROOT, _MODES = "root of it", {"at w_0": False, "at w_0, training mode": True}
_RTOL = 0.05


def sigma_at_start(network: nn.Module, epoch: OneEpoch, *, every: int) -> dict[str, list[float]]:
    r"""Return :math:`|\lambda|_{max}` at w_0 of every so many batches, in evaluation and in training mode."""
    w_0, sigma = snapshot(network), {}
    for label, training in _MODES.items():
        sigma[label] = []
        for step in epoch.order.steps[::every]:
            loss = batch_loss(network, epoch.loss_fn, epoch.batch(step), training=training)
            start = make_generator(epoch.seed, label, step)
            sigma[label].append(top_singular_value(loss, w_0, rtol=_RTOL, generator=start).value)
    return sigma


def errors_by_reading(
    network: nn.Module,
    epoch: OneEpoch,
    readings: dict[str, dict[str, Any]],
    *,
    learning_rate: float,
    every: int = 6,
) -> pd.DataFrame:
    r"""Train for one epoch, and return e under each reading of sigma.

    Two readings at w_0 and one with the root of :math:`|\lambda|_{max}` are taken in any case.

    Args:
        network: M at its initial weights; it is trained.
        epoch: What it is trained on.
        readings: By name, what its tracker is given beside network, loss, rate and seed. :data:`THIS_PAGE`
            is among them.
        learning_rate: :math:`\eta`.
        every: Steps between the rows, and between the samples at w_0.

    Returns:
        A row per recorded step, a column per reading.
    """
    w_0, at_start = snapshot(network), sigma_at_start(network, epoch, every=every)
    options = {"learning_rate": learning_rate, "rtol": _RTOL, "seed": epoch.seed}
    trackers = {
        name: UnlearningTracker(network, epoch.loss_fn, **options, **own) for name, own in readings.items()
    }

    def measure(t: int) -> dict[str, float]:
        sigma = {name: tracker.result().sigma_avg for name, tracker in trackers.items()}
        sigma |= {name: float(np.mean(values[: 1 + (t - 1) // every])) for name, values in at_start.items()}
        sigma[_ROOT] = float(np.sqrt(np.abs(trackers[THIS_PAGE].result().eigenvalues)).mean())
        moved = distance(trainable(network), w_0)
        return {
            name: unlearning_error(
                learning_rate=learning_rate, weight_change=moved, sigma_avg=value, num_steps=t
            )
            for name, value in sigma.items()
        }

    recorder = Recorder(measure, every=every, total=len(epoch.order))
    watching = [*trackers.values(), recorder]
    train(
        network,
        epoch.inputs,
        epoch.labels,
        epoch.order,
        epoch.loss_fn,
        learning_rate=learning_rate,
        observers=watching,
    )
    return pd.DataFrame(recorder.rows).set_index("step")


def relative_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """Return e of each reading over that of :data:`THIS_PAGE`: at the ``end``, and its ``low`` and ``high``.

    Args:
        errors: What :func:`errors_by_reading` returns.
    """
    ratio = errors.div(errors[THIS_PAGE], axis=0).drop(columns=THIS_PAGE)
    return pd.DataFrame({"end": ratio.iloc[-1], "low": ratio.min(), "high": ratio.max()})
