"""How time and memory grow: ``python -m benchmarks.growth``.

Every quantity is measured at several sizes, and the slope of a straight line through log size and log cost is
reported: 1 is linear. Time is processor time, which other work on the machine disturbs least.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import common
from unrolling import (
    BatchOrder,
    UnlearningTracker,
    batch_loss,
    expand_sgd,
    make_generator,
    seeded,
    sgd_step,
    snapshot,
    top_singular_value,
)
from unrolling.curvature import MAX_BASIS
from unrolling.methods.others import AmnesiacLog
from unrolling.store import Record, Store, make_address

BATCH_SIZE = 32
INPUTS = 16
#: Products of one estimate: all are taken, so that sizes differ in nothing else.
PRODUCTS = 16
#: Vectors kept at most by an estimate; None is one for each product.
BASES = {"whole": None, "default": MAX_BASIS, "basis_4": 4, "basis_3": 3}
#: Those that are tried where the weights are many.
BOUNDED = {"default": MAX_BASIS, "basis_4": 4}
DTYPE = torch.float64


def network(weights: int) -> nn.Module:
    """Return a tanh network of about so many weights, in six equal square layers between two small ones."""
    side = max(2, round((weights / 6) ** 0.5))
    with seeded(0, "benchmark", "growth"):
        layers: list[nn.Module] = [nn.Linear(INPUTS, side), nn.Tanh()]
        for _ in range(6):
            layers += [nn.Linear(side, side), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(side, 10)).to(DTYPE)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Return made-up batches."""
    generator = make_generator(0, "benchmark", "growth")
    inputs = torch.randn(count, BATCH_SIZE, INPUTS, generator=generator, dtype=DTYPE)
    labels = torch.randint(10, (count, BATCH_SIZE), generator=generator)
    return list(zip(inputs, labels, strict=True))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def slope(sizes: Sequence[float], costs: Sequence[float | None]) -> float | None:
    """Return the slope of log cost over log size by least squares; None without costs above zero."""
    points = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if cost and cost > 0]
    if len(points) < 2:
        return None
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def peak_memory(task: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that ``task`` holds at once, beside those there were.

    Counted from PyTorch's allocations, since the process's memory also shows what the C library keeps.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        task()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


def cpu_seconds(task: Callable[[], Any], repeats: int) -> float:
    """Return the least processor time of several calls."""
    return min(common.timed(task)[1]["cpu"] for _ in range(repeats))


def weights(size: int, bases: Mapping[str, int | None] = BASES) -> dict[str, Any]:
    """Cost of one sigma estimate, whole basis and bounded, and of e from a finished tracker."""
    (batch,) = batches(1)
    model = network(size)
    count = sum(p.numel() for p in model.parameters())
    copy = count * torch.finfo(DTYPE).bits / 8
    loss, params = batch_loss(model, loss_fn, batch), snapshot(model)
    repeats = 1 if size > 10**6 else 3

    def estimate(max_basis: int | None) -> Callable[[], Any]:
        return lambda: top_singular_value(
            loss,
            params,
            rtol=1e-12,
            max_hvps=PRODUCTS,
            max_basis=max_basis,
            generator=make_generator(0, "benchmark"),
        )

    tracker = UnlearningTracker(model, loss_fn, learning_rate=0.1, max_hvps=1, probe=False)
    tracker.step(batch)
    row: dict[str, Any] = {"weights": count, "e_seconds": cpu_seconds(tracker.result, repeats)}
    for name, max_basis in bases.items():
        task = estimate(max_basis)
        row[f"sigma_{name}_seconds"] = cpu_seconds(task, repeats)
        row[f"sigma_{name}_bytes"] = peak_memory(task)
        row[f"sigma_{name}_copies"] = row[f"sigma_{name}_bytes"] / copy
    return row


def expansion(steps: int) -> dict[str, Any]:
    """Cost of the expansion of so many steps, for 10^4 weights."""
    model = network(10**4)
    params, data = snapshot(model), batches(steps)

    def expand() -> None:
        expand_sgd((batch_loss(model, loss_fn, batch) for batch in data), params, learning_rate=1e-3)

    return {"steps": steps, "seconds": cpu_seconds(expand, 3), "bytes": peak_memory(expand)}


def amnesiac(steps: int) -> dict[str, Any]:
    """Cost of amnesiac's log when so many steps are on what may be forgotten, for 10^5 weights."""
    (batch,) = batches(1)
    order = BatchOrder(((0,),) * steps)
    model = network(10**5)

    def training(log: AmnesiacLog | None) -> None:
        for step in range(steps):
            if log:
                log.before_step(step, batch)
            sgd_step(model, batch, loss_fn, 1e-3)
            if log:
                log.after_step(step)

    alone = cpu_seconds(lambda: training(None), 3)
    logged = cpu_seconds(lambda: training(AmnesiacLog(model, order, [0])), 3)
    return {
        "steps": steps,
        "seconds": logged,
        "seconds_without_log": alone,
        "bytes": peak_memory(lambda: training(AmnesiacLog(model, order, [0]))),
    }


def example_record() -> Record:
    """Return a made-up run as long as a real one."""
    trace = {f"column_{k}": [0.1234567890123456 + k + i for i in range(10)] for k in range(12)}
    return Record(
        config={"dataset": "digits", "model": "mlp", "gamma": 0.5, "pretrain_epochs": 1, "seed": 0},
        data={"name": "digits", "description": "made up", "fingerprint": "0" * 16},
        result={"trace": trace, "sigma": {"eigenvalue": [1.2345678901234567] * 40}},
        provenance={"seconds": 1.0},
    )


def line(run: Record) -> str:
    """Return what a listing says of a made-up run."""
    return f"seed {run.config['seed']}"


def runs(size: int) -> dict[str, Any]:
    """Cost of looking up, finding missing and listing, in a folder of so many runs."""
    record = example_record()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for seed in range(size):
            run = replace(record, config=record.config | {"seed": seed})
            store.path(run.address).write_text(run.to_json() + "\n")  # put() would take longer
        there = make_address(record.config | {"seed": size // 2}, record.data["fingerprint"])

        def best(task: Callable[[], Any], repeats: int) -> dict[str, float]:
            return min((common.timed(task)[1] for _ in range(repeats)), key=_wall)

        first = best(lambda: store.lines(line, name="lines"), 1)
        again = best(lambda: store.lines(line, name="lines"), 3)
        return {
            "runs": size,
            "first_listing_seconds": first["cpu"],
            "listing_seconds": again["cpu"],
            "listing_wall_seconds": again["wall"],
            "get_seconds": best(lambda: store.get(there), 20)["wall"],
            "missing_seconds": best(lambda: "0" * 16 in store, 20)["wall"],
            "addresses_seconds": best(store.addresses, 3)["cpu"],
        }


def measured(part: Callable[[int], dict[str, Any]], sizes: Iterable[int]) -> list[dict[str, Any]]:
    """Return a row for each size, printed as it comes."""
    rows = []
    for size in sizes:
        rows.append(part(size))
        print(rows[-1], flush=True)
    return rows


def _wall(times: dict[str, float]) -> float:
    return times["wall"]


def slopes(rows: list[dict[str, Any]], size: str, largest: int = 0) -> dict[str, float | None]:
    """Return the slope of every column; over the ``largest`` sizes only, if given."""
    used = rows[-largest:]
    columns = [name for name in used[0] if name.endswith(("seconds", "bytes"))]
    return {name: slope([row[size] for row in used], [row[name] for row in used]) for name in columns}


def main() -> None:
    """Measure, print tables and write ``results/growth.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    fast = parser.parse_args().fast
    load = os.getloadavg()
    torch.set_num_threads(1)
    parts = {  # the name of its size, what measures it, sizes, sizes of a trial
        "weights": ("weights", weights, [10**k for k in range(3, 8)], [10**3, 10**4]),
        "many_weights": ("weights", partial(weights, bases=BOUNDED), [5 * 10**7], [10**4]),
        "expansion": ("steps", expansion, [8, 16, 32, 64, 128], [4, 8]),
        "amnesiac": ("steps", amnesiac, [25, 50, 100, 200, 400], [8, 16]),
        "store": ("runs", runs, [10**k for k in range(2, 6)], [10, 100]),
    }
    for _, part, _, trial in parts.values():
        part(trial[0])  # the first call of everything is slower
    found = {
        name: (size, measured(part, trial if fast else sizes))
        for name, (size, part, sizes, trial) in parts.items()
    }
    results = {
        name: {
            "rows": rows,
            "slopes": slopes(rows, size),
            "slopes_of_the_three_largest": slopes(rows, size, 3),
        }
        for name, (size, rows) in found.items()
    }
    for name, (_, rows) in found.items():
        common.table(name, list(rows[0]), [list(row.values()) for row in rows])
        slopes_of = results[name]
        common.table(
            f"{name}: slopes, over all sizes and over the three largest",
            list(slopes_of["slopes"]),
            [list(slopes_of[key].values()) for key in ("slopes", "slopes_of_the_three_largest")],
        )
    if not fast:
        print(common.write("growth", {"growth": results, "dtype_of_weights": str(DTYPE)}, load))


if __name__ == "__main__":
    main()
