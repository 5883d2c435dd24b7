"""Time to the largest singular value of a Hessian, side by side: ``python -m benchmarks.curvature``.

Two moments are timed. *To 1 %*: a run cut off at the first product from which on the estimate stays within
1 % of the converged value, as if the method knew when to stop. *To its stop*: as a user calls it.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from benchmarks import common, peers
from benchmarks.peers import Batch, Estimate
from benchmarks.workloads import BATCH_SIZE, LEARNING_RATE, NAMES, build, loss_fn
from unrolling import batch_loss, make_generator, sgd_step, snapshot, top_singular_value

Row = dict[str, Any]

ACCURACY = 0.01
REFERENCE_SEEDS = (101, 102)


def ours(model: nn.Module, batch: Batch, seed: int, products: int | None = None, **options: Any) -> Estimate:
    """This package: at its defaults but for ``options``, or cut off after so many products."""
    model.eval()
    found = top_singular_value(
        batch_loss(model, loss_fn, batch),
        snapshot(model),
        generator=make_generator(seed, "benchmark"),
        **options,
        **({} if products is None else {"max_hvps": products}),
    )
    return Estimate(found.value, found.hvps, found.estimates)


OURS = {"unrolling": ours, "unrolling, from the gradient": partial(ours, start="gradient")}


def converged(model: nn.Module, batch: Batch) -> float:
    """The value that errors are measured from: the larger of two runs to a tolerance of 0.01 %."""
    model.eval()
    loss, params = batch_loss(model, loss_fn, batch), snapshot(model)
    return max(
        top_singular_value(loss, params, rtol=1e-4, generator=make_generator(seed, "reference")).value
        for seed in REFERENCE_SEEDS
    )


def products_to_accuracy(stopped: Estimate, exact: float) -> int | None:
    """Products after which the estimate stays within 1 %; None if it stops outside."""
    needed = None
    for products, value in zip(range(stopped.products, 0, -1), reversed(stopped.trace), strict=True):
        if abs(value / exact - 1) > ACCURACY:
            break
        needed = products
    return needed


def measured(method: Callable[..., Estimate], model: nn.Module, batch: Batch, seed: int, exact: float) -> Row:
    """Time one method from one random start, to its own stop and, again, only to 1 %."""
    stopped, seconds = common.timed(lambda: method(model, batch, seed))
    needed = products_to_accuracy(stopped, exact)
    cut = seconds
    if needed not in (None, stopped.products):
        cut = common.timed(lambda: method(model, batch, seed, needed))[1]
    return {
        "products": stopped.products,
        "error": stopped.value / exact - 1,
        "products_to_accuracy": needed,
        "stop": seconds,
        "to_accuracy": cut if needed else None,
    }


def side_by_side(model: nn.Module, batch: Batch, repeats: int) -> dict[str, Any]:
    """Run every method from ``repeats`` random starts, in turns."""
    exact = converged(model, batch)
    methods: dict[str, Callable[..., Estimate]] = {**OURS, **peers.installed()}
    rows: dict[str, list[Row]] = {name: [] for name in methods}
    memory = {}
    for seed in range(repeats):
        for name, method in methods.items():
            rows[name].append(measured(method, model, batch, seed, exact))
    for name, method in methods.items():
        memory[name] = common.peak_memory(lambda: method(model, batch, 0))  # noqa: B023
    return {"value": exact, "starts": rows, "peak_bytes": memory}


def summary(starts: dict[str, list[Row]]) -> dict[str, Row]:
    """Medians over the starts; and PyHessian's time over each method's, over the starts where both arrive."""
    rows = {}
    for name, row in starts.items():
        arrived = [r for r in row if r["to_accuracy"]]
        rows[name] = {
            "within 1 %": f"{len(arrived)}/{len(row)}",
            "products to 1 %": _median([r["products_to_accuracy"] for r in arrived]),
            "CPU s to 1 %": _median([r["to_accuracy"]["cpu"] for r in arrived]),
            "PyHessian / this, to 1 %": _ratio(starts, name, "to_accuracy", "cpu"),
            "wall, to 1 %": _ratio(starts, name, "to_accuracy", "wall"),
            "products to stop": _median([r["products"] for r in row]),
            "CPU s to stop": _median([r["stop"]["cpu"] for r in row]),
            "PyHessian / this, to stop": _ratio(starts, name, "stop", "cpu"),
            "wall, to stop": _ratio(starts, name, "stop", "wall"),
            "worst error at stop": max(abs(r["error"]) for r in row),
        }
    return rows


def _median(values: list[float]) -> float | None:
    return float(common.spread(values)["median"]) if values else None


def _ratio(starts: dict[str, list[Row]], name: str, moment: str, clock: str) -> dict[str, float] | None:
    pairs = zip(starts.get("PyHessian", []), starts[name], strict=False)
    found = [a[moment][clock] / b[moment][clock] for a, b in pairs if a[moment] and b[moment]]
    return common.spread(found) if found else None


def tracking(name: str, *, steps: int, every: int, width: int) -> dict[str, Any]:
    """Samples along one training run: PyHessian from a random start, ours from what is known.

    Each sample is the Hessian of the batch about to be trained on, at the weights of that moment.
    """
    workload = build(name, width=width)
    model, previous = workload.model, None
    values: list[float] = []
    methods: dict[str, Callable[..., Estimate]] = dict(OURS)
    methods["unrolling, from the previous eigenvector"] = lambda *args: ours(*args, start=previous)
    if "PyHessian" in peers.installed():
        methods["PyHessian"] = peers.pyhessian
    rows: dict[str, list[Row]] = {method: [] for method in methods}
    for step, index in enumerate(workload.order(steps)):
        batch = workload.inputs[list(index)], workload.labels[list(index)]
        if step % every == 0:
            values.append(converged(model, batch))
            for method_name, method in methods.items():
                rows[method_name].append(measured(method, model, batch, step, values[-1]))
            generator = make_generator(step, "benchmark")
            loss = batch_loss(model, loss_fn, batch)
            previous = top_singular_value(loss, snapshot(model), generator=generator).vector
        model.train()
        sgd_step(model, batch, loss_fn, LEARNING_RATE)
    return {"steps": steps, "every": every, "values": values, "starts": rows}


def main() -> None:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of the tracked runs")
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18; 64 in the paper")
    parser.add_argument("--out", default="curvature", help="name of the JSON in results/")
    args = parser.parse_args()
    load = os.getloadavg()
    results: dict[str, Any] = {"batch_size": BATCH_SIZE, "resnet18_width": args.width}
    results["missing_peers"] = sorted({"PyHessian", "curvlinops + eigsh"} - set(peers.installed()))
    for peer in results["missing_peers"]:
        print(f"{peer} is not installed (benchmarks/requirements.txt): left out.")
    for part in ("cold", "tracking"):
        results[part] = {}
    for name in args.workloads:
        for trained in (False, True):
            workload = build(name, trained=trained, width=args.width)
            case = side_by_side(workload.model, workload.batch, args.repeats)
            key = f"{name}, {'trained' if trained else 'fresh'}"
            results["cold"][key] = case | {"summary": summary(case["starts"])}
            _print(f"{key}: |lambda|_max = {case['value']:.4g}", results["cold"][key])
            common.write(args.out, results, load, finished=False)
        run = tracking(name, steps=args.steps, every=20, width=args.width)
        results["tracking"][name] = run | {"summary": summary(run["starts"])}
        _print(f"{name}, sampled every 20 of {args.steps} steps", results["tracking"][name])
        common.write(args.out, results, load, finished=False)
    print(common.write(args.out, results, load))


def _print(title: str, case: dict[str, Any]) -> None:
    header = ["method", *next(iter(case["summary"].values()))]
    lines = []
    for name, row in case["summary"].items():
        lines.append([name, *(v["median"] if isinstance(v, dict) else v for v in row.values())])
        if "peak_bytes" in case:
            memory = case["peak_bytes"][name]
            lines[-1].append(memory and memory / 1e6)
    common.table(title, header + ["peak MB"] * ("peak_bytes" in case), lines)


if __name__ == "__main__":
    main()
