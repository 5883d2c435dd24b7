"""How often does an estimate stop at a wrong value? ``python -m benchmarks.stopping``.

Nothing is timed: counts are the same on every machine, but for the last bits of its sums.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from benchmarks import common, peers
from benchmarks.curvature import ACCURACY, converged, ours
from benchmarks.peers import Batch, Estimate
from benchmarks.workloads import build, loss_fn
from unrolling import sgd_step

#: Network, learning rate, steps, steps between samples.
RUNS = (("mlp", 0.1, 4000, 80), ("mlp", 0.5, 6000, 200), ("resnet-small", 0.1, 400, 20))
#: Examples in the larger batch; the other is the one about to be trained on.
LARGE = 720
TOLERANCES = (1e-2, 3e-3, 1e-3)


def methods() -> dict[str, Callable[[nn.Module, Batch, int], Estimate]]:
    """Return what is compared: this package from both starts, and PyHessian at its defaults."""
    found: dict[str, Callable[[nn.Module, Batch, int], Estimate]] = {
        f"{name}, rtol {rtol:g}": partial(ours, rtol=rtol, start=start)
        for name, start in (("random start", None), ("from the gradient", "gradient"))
        for rtol in TOLERANCES
    }
    return found | {name: method for name, method in peers.installed().items() if name == "PyHessian"}


def states(name: str, learning_rate: float, steps: int, every: int) -> Iterator[tuple[nn.Module, Batch]]:
    """Train, and yield the network with a small and with a large batch every so many steps."""
    workload = build(name)
    for step, index in enumerate(workload.order(steps)):
        batch = workload.inputs[list(index)], workload.labels[list(index)]
        if step % every == 0:
            yield workload.model, batch
            yield workload.model, (workload.inputs[:LARGE], workload.labels[:LARGE])
        workload.model.train()
        sgd_step(workload.model, batch, loss_fn, learning_rate)


def stops(model: nn.Module, batch: Batch, starts: int) -> dict[str, list[dict[str, float]]]:
    """Return the error and the products of every method from every start."""
    exact = converged(model, batch)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in methods()}
    for seed in range(starts):
        for name, method in methods().items():
            estimate = method(model, batch, seed)
            error = estimate.value / exact - 1
            found[name].append({"error": error, "products": estimate.products})
    return found


def summary(samples: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    """Return how many samples are more than 1 % off, by how much at worst, and at what price.

    Args:
        samples: Of one method.
        theirs: Of PyHessian, on the same Hessians; empty if it is not installed.
    """
    errors = [abs(sample["error"]) for sample in samples]
    wrong = [error > ACCURACY for error in errors]
    both = None
    if theirs:
        pairs = zip(wrong, theirs, strict=True)
        both = sum(mine and abs(other["error"]) > ACCURACY for mine, other in pairs)
    return {
        "samples": len(samples),
        "wrong": sum(wrong),
        "wrong where PyHessian is": both,
        "worst": max(errors),
        "products": sum(sample["products"] for sample in samples) / len(samples),
    }


def main() -> None:
    """Count, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="random starts for each Hessian")
    parser.add_argument("--fast", action="store_true", help="a tenth of the steps, to see that it runs")
    parser.add_argument("--out", default="stopping", help="name of the JSON in results/")
    args = parser.parse_args()
    load = os.getloadavg()
    results: dict[str, Any] = {}
    for name, learning_rate, steps, every in RUNS:
        samples: dict[str, list[dict[str, float]]] = {method: [] for method in methods()}
        for model, batch in states(name, learning_rate, steps // 10 if args.fast else steps, every):
            for method, found in stops(model, batch, args.starts).items():
                samples[method] += found
        key = f"{name}, learning rate {learning_rate:g}"
        results[key] = {
            method: summary(found, samples.get("PyHessian", [])) for method, found in samples.items()
        }
        common.table(
            key,
            ["method", *next(iter(results[key].values()))],
            [[method, *row.values()] for method, row in results[key].items()],
        )
        common.write(args.out, {"runs": results}, load, finished=False)
    print(common.write(args.out, {"runs": results}, load))


if __name__ == "__main__":
    main()
