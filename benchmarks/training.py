"""Training steps and tracked runs, side by side: ``python -m benchmarks.training``."""

import argparse
import copy
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from benchmarks import common, plain
from benchmarks.workloads import BATCH_SIZE, LEARNING_RATE, NAMES, Workload, build, loss_fn
from unrolling import UnlearningTracker, train
from unrolling.training import copy_for_retraining

#: Steps of one timing, so that each takes about as long.
STEPS = {"mlp": 400, "resnet-small": 40, "resnet18": 12, "distilbert-small": 24}


def bare_loop(model: nn.Module, workload: Workload, steps: int) -> None:
    """The loop of PyTorch's documentation, on data that is already resident."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for index in workload.order(steps):
        batch = workload.inputs[torch.tensor(index)], workload.labels[torch.tensor(index)]
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()


def ours(
    model: nn.Module,
    workload: Workload,
    steps: int,
    observers: Iterable[Any] = (),
    side_by_side: bool = False,
) -> None:
    """This package's trainer: M alone, or M and the M' that leaves the first batch out."""
    order = workload.order(steps)
    beside: dict[str, Any] = {}
    if side_by_side:
        beside = {"retrained": copy_for_retraining(model), "forget": order[0]}
    train(
        model,
        workload.inputs,
        workload.labels,
        order,
        loss_fn,
        learning_rate=LEARNING_RATE,
        observers=observers,
        **beside,
    )


def steps_side_by_side(name: str, repeats: int) -> dict[str, Any]:
    """Time as many steps of each kind, each on a new copy of the same model."""
    workload, steps = build(name), STEPS[name]

    def on_a_copy(task: Callable[..., None], **options: Any) -> Callable[[], None]:
        return lambda: task(copy.deepcopy(workload.model), workload, steps, **options)

    tasks = {
        "bare PyTorch loop": on_a_copy(bare_loop),
        "unrolling": on_a_copy(ours),
        "unrolling, M and M'": on_a_copy(ours, side_by_side=True),
    }
    for task in tasks.values():
        task()
    times = common.interleaved(tasks, repeats)
    return {
        "steps": steps,
        "times": times,
        "ratios": {
            "ours / bare": common.ratio(times, "unrolling", "bare PyTorch loop"),
            "M and M' / M": common.ratio(times, "unrolling, M and M'", "unrolling"),
        },
    }


def tracked_runs(name: str, steps: int, repeats: int, width: int, *, trained: bool = False) -> dict[str, Any]:
    """The same run without e, with e sampled rarely and often, and as the plain transcription has it.

    From a trained network, as w_0 is in the paper, only without e and with one sample: the rest takes long.
    """
    workload = build(name, width=width, trained=trained)
    products: dict[str, int] = {}
    errors: dict[str, float] = {}

    def tracked(label: str, every: int) -> Callable[[], None]:
        def task() -> None:
            model = copy.deepcopy(workload.model)
            tracker = UnlearningTracker(model, loss_fn, learning_rate=LEARNING_RATE, every=every, probe=False)
            ours(model, workload, steps, [tracker])
            found = tracker.result()
            products[label], errors[label] = found.hvps, found.unlearning_error

        return task

    def transcribed() -> None:
        model = copy.deepcopy(workload.model)
        found = plain.tracked_run(
            model,
            workload.inputs,
            workload.labels,
            workload.order(steps).steps,
            learning_rate=LEARNING_RATE,
            every=20,
        )
        products["plain transcription"], errors["plain transcription"] = (
            found["products"],
            found["errors"][-1],
        )

    tasks: dict[str, Callable[[], None]] = {
        "training alone": lambda: ours(copy.deepcopy(workload.model), workload, steps),
        "e once": tracked("e once", steps),
        "sigma every 20": tracked("sigma every 20", 20),
        "plain transcription": transcribed,
    }
    if trained:
        tasks = {label: tasks[label] for label in ("training alone", "e once")}
    times = common.interleaved(tasks, repeats)
    return {
        "steps": steps,
        "repeats": repeats,
        "times": times,
        "products": products,
        "unlearning_error": errors,
        "ratios": {label: common.ratio(times, label, "training alone") for label in tasks}
        | {
            f"plain / {label}": common.ratio(times, "plain transcription", label)
            for label in tasks
            if label.startswith("sigma")
        },
    }


def main() -> None:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=15, help="of the short timings of steps")
    parser.add_argument("--tracked", default="resnet18", choices=NAMES)
    parser.add_argument("--tracked-repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of the tracked runs")
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18; 64 in the paper")
    parser.add_argument("--out", default="training", help="name of the JSON in results/")
    args = parser.parse_args()
    load = os.getloadavg()
    results: dict[str, Any] = {"batch_size": BATCH_SIZE, "resnet18_width": args.width, "steps": {}}
    for name in args.workloads:
        found = results["steps"][name] = steps_side_by_side(name, args.repeats)
        _print(f"{name}, {found['steps']} steps", found)
        common.write(args.out, results, load, finished=False)
    if args.tracked_repeats:
        for trained, key in ((False, "tracked"), (True, "tracked_from_trained")):
            found = tracked_runs(args.tracked, args.steps, args.tracked_repeats, args.width, trained=trained)
            results[key] = found | {"workload": args.tracked}
            _print(f"{args.tracked}, {args.steps} steps, {key.replace('_', ' ')}", found)
            common.write(args.out, results, load, finished=False)
    print(common.write(args.out, results, load))


def _print(title: str, found: dict[str, Any]) -> None:
    times, products = found["times"].items(), found.get("products", {})
    common.table(
        title,
        ["run", "CPU s", "wall s", "products"],
        [
            [name, *(common.spread(t[clock])["median"] for clock in ("cpu", "wall")), products.get(name)]
            for name, t in times
        ],
    )
    common.table(
        f"{title}: ratios of CPU time",
        ["ratio", "median", "smallest", "largest"],
        [
            [name, *(found["ratios"][name]["cpu"][key] for key in ("median", "min", "max"))]
            for name in found["ratios"]
        ],
    )


if __name__ == "__main__":
    main()
