"""Records of runs that were never made, whose numbers a test chooses."""

import itertools
from types import SimpleNamespace

from unrolling.runs.config import RunConfig
from unrolling.store import Record

STEPS = (10, 20, 30)  # one epoch
SAMPLED = (0, 5, 10, 15, 20)
NUM_CLASSES = {"cifar100": 100, "imdb": 2}  # ten in the others


def records(
    e=lambda c: 100.0,
    *,
    shape=lambda t: t / STEPS[-1],
    weight_change=lambda c: 1.0,
    sigma=lambda c: 1.0,
    accuracy=lambda c: 0.9,
    accuracy_pretrained=lambda c: 0.9,
    v=lambda c: 1.0,
    **axes,
):
    """Return a run for each point of the grid ``axes``, settings of the run's configuration and ``seed``.

    Every other argument is a function of the configuration. ``e`` is that at the end of the epoch, and
    ``shape`` how e got there over the steps. e from roots is e over the root of ``sigma``.
    """
    axes = {"dataset": ["cifar10"], "model": ["resnet18"], "gamma": [0.0, 1.0], "seed": [0, 1, 2]} | axes
    found = []
    for point in itertools.product(*axes.values()):
        config = RunConfig(**dict(zip(axes, point, strict=True))).to_dict()
        c = SimpleNamespace(**config)
        trace = {
            "step": list(STEPS),
            "e": [e(c) * shape(t) for t in STEPS],
            "weight_change": [weight_change(c) * t / STEPS[-1] for t in STEPS],
            "sigma_avg": [sigma(c)] * len(STEPS),
            "accuracy": [accuracy(c)] * len(STEPS),
            "v": [v(c)] * len(STEPS),
        }
        result = {
            "trace": trace,
            "sigma": {"step": list(SAMPLED), "eigenvalue": [sigma(c) * (-1) ** t for t in SAMPLED]},
            "steps_per_epoch": STEPS[-1],
            "num_classes": NUM_CLASSES.get(c.dataset, 10),
            "accuracy_pretrained": accuracy_pretrained(c),
            "forget_gradient_norm": 1.0,
        }
        found.append(Record(config, {"name": c.dataset, "fingerprint": "0"}, result, {}))
    return found


def dip(c):
    """Return a factor for each seed, the same at every gamma: what comparisons by seed must cancel."""
    return 1 + 0.5 * c.seed
