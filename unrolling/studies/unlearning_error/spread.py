"""How much sigma differs from batch to batch, and how many samples its mean needs."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import nn

from unrolling._checks import InputError, check_real
from unrolling.batches import BatchOrder
from unrolling.curvature import top_singular_value
from unrolling.metrics.intervals import rank_correlation
from unrolling.model_loss import batch_loss
from unrolling.parameters import snapshot
from unrolling.seeding import make_generator
from unrolling.studies.unlearning_error.one_epoch import OneEpoch
from unrolling.training import train


def sigma_of_batches(network: nn.Module, epoch: OneEpoch) -> pd.DataFrame:
    """Return ``sigma`` and ``loss`` of every batch of the epoch, at the network's weights."""
    w, rows = snapshot(network), []
    for step in epoch.order:
        loss = batch_loss(network, epoch.loss_fn, epoch.batch(step))
        start = make_generator(epoch.seed, "every batch", step)
        sigma = top_singular_value(loss, w, rtol=0.1, generator=start).value
        rows.append({"sigma": sigma, "loss": loss(w).item()})
    return pd.DataFrame(rows)


def sigma_after_epochs(
    name: str, epoch: OneEpoch, *, epochs: Sequence[int], learning_rate: float
) -> pd.DataFrame:
    r"""Train a network, and return :func:`sigma_of_batches` after so many epochs each.

    Args:
        name: The network.
        epoch: What it is trained on, over and over.
        epochs: When to look, in rising order.
        learning_rate: :math:`\eta`.

    Returns:
        A row per batch, with ``network`` and ``epochs`` beside its sigma and loss.
    """
    network, done, parts = epoch.network(name), 0, []
    for count in epochs:
        order = BatchOrder(epoch.order.steps * (count - done))
        train(network, epoch.inputs, epoch.labels, order, epoch.loss_fn, learning_rate=learning_rate)
        parts.append(sigma_of_batches(network, epoch).assign(network=name, epochs=count))
        done = count
    return pd.concat(parts, ignore_index=True)


def samples_needed(pool: Sequence[float], tolerance: float) -> int:
    r"""Return how many random samples of sigma give its mean to a relative error of ``tolerance``.

    The mean of k independent draws from the pool is off by :math:`s / (\bar \sigma \sqrt k)`, root mean
    square and relative, with :math:`\bar \sigma` and s the pool's mean and standard deviation. So

    .. math:: k = \lceil (s / (\bar \sigma \cdot tolerance))^2 \rceil .

    Args:
        pool: Values of sigma, for example of every batch of an epoch at the same weights.
        tolerance: Root-mean-square relative error that is allowed.

    Example:
        >>> samples_needed([1.0, 3.0], 0.1)  # mean 2, standard deviation 1
        25
    """
    values = np.asarray(pool, dtype=float)
    if values.ndim != 1 or values.size == 0 or not (np.isfinite(values).all() and (values > 0).all()):
        raise InputError(f"`pool` must be positive numbers, at least one, got {pool!r}.")
    check_real("tolerance", tolerance, above=0)
    return max(1, math.ceil((values.std() / values.mean() / tolerance) ** 2))


def error_of_mean(samples: pd.DataFrame, counts: Sequence[int], *, seed: int = 0) -> pd.DataFrame:
    """Return how far the mean of k random samples of sigma is off: by drawing them, and by the rule.

    Args:
        samples: What :func:`sigma_after_epochs` returns, of several networks if you like.
        counts: The numbers k.
        seed: Of the draws.

    Returns:
        A row per network, number of epochs and k: ``samples``, k; ``error``, the root-mean-square relative
        error of 2,000 draws; and ``rule``, the standard deviation over the mean, divided by the root of k.
    """
    rng, rows = np.random.default_rng(seed), []
    for (network, epochs), own in samples.groupby(["network", "epochs"], sort=False):
        pool = own["sigma"].to_numpy()
        for k in counts:
            means = rng.choice(pool, size=(2000, k)).mean(axis=1)
            error = float(np.sqrt(np.mean((means / pool.mean() - 1) ** 2)))
            rule = float(pool.std() / pool.mean() / k**0.5)
            rows.append({"network": network, "epochs": epochs, "samples": k, "error": error, "rule": rule})
    return pd.DataFrame(rows)


def spread(samples: pd.DataFrame) -> pd.DataFrame:
    """Return how widely sigma is spread over the batches.

    Args:
        samples: What :func:`sigma_after_epochs` returns, of several networks if you like.

    Returns:
        A row per network and number of epochs: ``least``, ``median`` and ``most`` of sigma; ``deviation``,
        the standard deviation over the mean; ``needed``, samples whose mean is off by 10 %, see
        :func:`samples_needed`; and ``with_loss``, the rank correlation of sigma with the batch's loss.
    """
    rows = []
    for (network, epochs), own in samples.groupby(["network", "epochs"], sort=False):
        sigma = own["sigma"].to_numpy()
        rows.append(
            {"network": network, "epochs": epochs}
            | {"least": sigma.min(), "median": np.median(sigma), "most": sigma.max()}
            | {"deviation": sigma.std() / sigma.mean(), "needed": samples_needed(sigma, 0.1)}
            | {"with_loss": rank_correlation(sigma, own["loss"])}
        )
    return pd.DataFrame(rows)
