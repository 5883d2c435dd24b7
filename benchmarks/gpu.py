"""Training on one GPU, measured in one call: ``python -m benchmarks.gpu``.

Steps per second of plain SGD at b = 32, eager and from CUDA graphs, with float32 products of both kinds;
several settings at once by streams, by ``vmap`` and by processes; a sample of sigma; and what follows for the
cells of Table 1. Before anything is timed, what is timed is compared with the eager loop.

``--short`` first says whether a GPU computes what it should, and then the rates that matter most: all within
two minutes, see :mod:`benchmarks.gpu_short`.

It needs torch, numpy, scipy, pandas and scikit-learn, and the project's folder on the path; ``--table-1``
needs pyyaml as well.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.vmapped import Ensemble
from unrolling import (
    BatchOrder,
    Dataset,
    Objective,
    SpectralNorm,
    batch_loss,
    build_model,
    make_batch_order,
    make_generator,
    seeded,
    snapshot,
    top_singular_value,
    train,
)
from unrolling.losses import gamma_from_released
from unrolling.runs.cuda_graph import GraphStepper
from unrolling.runs.precision import PRODUCTS, float32_products
from unrolling.training import Stepper

BATCH_SIZE = 32
LEARNING_RATE = 0.1
CLASSES = 10
#: Table 1: two networks by six strengths of the released code; N = 10 epochs, then M and M' for one.
MODELS = ("resnet18", "vgg19")
GAMMAS = tuple(gamma_from_released(gamma, CLASSES) for gamma in (0, 1, 5, 10, 15, 20))
EXAMPLES, TEST_EXAMPLES = 50_000, 10_000
EPOCHS = 10
SIGMA_EVERY = 50
STEPPERS: dict[str, Callable[[], Stepper]] = {"eager": Stepper, "graph": GraphStepper}
LAYOUTS = {"plain": torch.contiguous_format, "channels last": torch.channels_last}
#: One for all trainings: what a graph has recorded is given up with its loss.
OBJECTIVE = Objective("sd", 0.5)
#: Seconds that one process waits until the others have been set up as well.
PATIENCE = 120


class Way(NamedTuple):
    """How steps are taken: by which stepper, with which products, and in which order of memory."""

    stepper: str = "eager"
    products: str = "ieee"
    layout: str = "plain"

    def __str__(self) -> str:
        return f"{self.stepper}, {self.products}" + (f", {self.layout}" if self.layout != "plain" else "")


class Scale(NamedTuple):
    """How large the networks and their batches are; ``width`` None is the paper's."""

    width: int | None = None
    batch_size: int = BATCH_SIZE


PAPER = Scale()


def images(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return noise in the shape of CIFAR-10: a step takes as long whatever is in the picture."""
    generator = make_generator(0, "benchmark", "gpu")
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return torch.randn(count, 3, 32, 32, generator=generator).to(device), labels.to(device)


def new_model(name: str, device: torch.device, seed: int = 0, width: int | None = None) -> nn.Module:
    """Return a network with weights of its own."""
    with seeded(seed, "benchmark", "gpu"):
        return build_model(name, CLASSES, width=width).to(device)


def order_of(steps: int, batch_size: int = BATCH_SIZE) -> BatchOrder:
    """Return so many full batches, in which no example comes twice: at the end of an epoch training looks."""
    return make_batch_order(steps * batch_size, batch_size, 1, make_generator(0, "benchmark", "order"))


@dataclass(frozen=True)
class Training:
    """A network, its data and how it takes its steps."""

    model: nn.Module
    data: tuple[Tensor, Tensor]
    way: Way
    stepper: Stepper
    objective: Objective
    batch_size: int

    def take(self, steps: int) -> float:
        """Train for so many steps as runs do, and return the seconds."""
        order, device = order_of(steps, self.batch_size), self.data[0].device
        wait(device)
        started = time.perf_counter()
        with float32_products(self.way.products):
            train(
                self.model,
                *self.data,
                order,
                self.objective,
                learning_rate=LEARNING_RATE,
                stepper=self.stepper,
            )
        wait(device)
        return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training(
    name: str,
    way: Way,
    device: torch.device,
    steps: int,
    *,
    scale: Scale = PAPER,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    objective: Objective = OBJECTIVE,
) -> Training:
    """Return a training with data for so many steps. The seed makes the weights, wherever they are."""
    inputs, labels = images(steps * scale.batch_size, device)
    layout = LAYOUTS[way.layout]
    model = new_model(name, device, seed, scale.width).to(dtype=dtype, memory_format=layout)
    data = inputs.to(dtype=dtype, memory_format=layout), labels
    return Training(model, data, way, STEPPERS[way.stepper](), objective, scale.batch_size)


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Return the largest difference of weights and buffers, relative to the largest entry of a tensor."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for a, b in zip(*(_state(model) for model in (first, second)), strict=True)
    )


def distance(first: nn.Module, second: nn.Module) -> float:
    """Return the distance of all weights and buffers."""
    pairs = zip(*(_state(model) for model in (first, second)), strict=True)
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5


def _state(model: nn.Module) -> list[Tensor]:
    return [value.to("cpu", torch.float64) for value in model.state_dict().values()]


def equality(device: torch.device) -> dict[str, Any]:
    """Compare what is timed with the eager loop in float64, where rounding cannot hide a mistake."""
    found = {}
    for name in MODELS:
        eager, graph = (
            training(name, Way(kind), device, 5, dtype=torch.float64) for kind in ("eager", "graph")
        )
        eager.take(5)
        graph.take(5)
        found[f"{name}, graph"] = largest_difference(graph.model, eager.model)
        together = Ensemble([new_model(name, device).double()], [OBJECTIVE.strength])
        for batch in order_of(5):
            index = torch.tensor(batch, device=device)
            together.step(*(part[index][None] for part in eager.data), LEARNING_RATE)
        stacked = new_model(name, device).double()
        stacked.load_state_dict({key: v[0] for key, v in (together.params | together.buffers).items()})
        found[f"{name}, vmap"] = largest_difference(stacked, eager.model)
    if wrong := {name: value for name, value in found.items() if not value < 1e-6}:
        raise SystemExit(f"not the eager loop's weights, nothing is timed: {wrong}")
    return found


def rate(
    name: str, way: Way, device: torch.device, steps: int, *, repeats: int = 3, scale: Scale = PAPER
) -> float:
    """Return the steps per second of one network, the best of a few times; the first steps do not count."""
    own = training(name, way, device, max(steps, 20), scale=scale)
    own.take(min(steps, 20))
    return steps / min(own.take(steps) for _ in range(repeats))


def one_at_a_time(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """Steps per second of each network, eager and from graphs, with products of both kinds."""
    rows = []
    for name in MODELS:
        for products in PRODUCTS:
            row: dict[str, Any] = {"model": name, "products": products}
            row |= {kind: rate(name, Way(kind, products), device, steps) for kind in STEPPERS}
            rows.append(row | {"graph / eager": row["graph"] / row["eager"]})
            print(rows[-1], flush=True)
    return rows


def trainings(
    name: str, way: Way, device: torch.device, count: int, steps: int, **options: Any
) -> list[Training]:
    """Return several trainings, each with weights and a gamma of its own."""
    objectives = [Objective("sd", gamma) for gamma in (GAMMAS * count)[:count]]
    return [
        training(name, way, device, steps, seed=seed, objective=objective, **options)
        for seed, objective in enumerate(objectives)
    ]


def take_by_streams(several: Sequence[Training], steps: int) -> float:
    """Take so many steps of all trainings at once, each on a stream of its own, and return the seconds."""
    device = several[0].data[0].device
    streams = [torch.cuda.Stream() for _ in several]
    batches = [torch.tensor(batch, device=device) for batch in order_of(steps, several[0].batch_size)]
    for own in several:
        own.model.train()
    wait(device)
    started = time.perf_counter()
    with float32_products(several[0].way.products):
        for step, index in enumerate(batches):
            for own, stream in zip(several, streams, strict=True):
                with torch.cuda.stream(stream):
                    batch = own.data[0][index], own.data[1][index]
                    own.stepper.take(own.model, batch, own.objective, LEARNING_RATE, step)
    wait(device)
    return time.perf_counter() - started


def streams(
    name: str, way: Way, device: torch.device, count: int, steps: int, *, scale: Scale = PAPER
) -> float:
    """Steps per second of ``count`` models together, each on a stream of its own."""
    several = trainings(name, way, device, count, steps, scale=scale)
    take_by_streams(several, 1)  # records
    return count * steps / take_by_streams(several, steps)


def vmapped(name: str, device: torch.device, count: int, steps: int) -> float:
    """Steps per second of ``count`` models together, trained as one."""
    data = images(steps * BATCH_SIZE, device)
    together = Ensemble([new_model(name, device, k) for k in range(count)], (GAMMAS * count)[:count])
    batches = [torch.tensor(batch, device=device) for batch in order_of(steps)]
    started = 0.0
    for step, index in enumerate([batches[0], *batches]):
        if step == 1:
            torch.cuda.synchronize()
            started = time.perf_counter()
        inputs = data[0][index].expand(count, *(-1,) * 4)
        together.step(inputs, data[1][index].expand(count, -1), LEARNING_RATE)
    torch.cuda.synchronize()
    return count * steps / (time.perf_counter() - started)


_barrier: Any = None


def _meet_at(barrier: Any) -> None:
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)


def _one_of_several(name: str, way: Way, seed: int, steps: int, device: torch.device, scale: Scale) -> float:
    try:
        own = training(name, way, device, max(steps, 20), seed=seed, scale=scale)
        own.take(min(steps, 20))
    except BaseException:
        _barrier.abort()  # the others would wait for this one
        raise
    _barrier.wait(PATIENCE)
    return own.take(steps)


def processes(
    name: str, way: Way, device: torch.device, count: int, steps: int, *, scale: Scale = PAPER
) -> float:
    """Steps per second of ``count`` models together, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, initializer=_meet_at, initargs=(barrier,)) as pool:
        tasks = [pool.submit(_one_of_several, name, way, seed, steps, device, scale) for seed in range(count)]
        failed = [error for task in tasks if (error := task.exception())]
        if failed:  # the cause, rather than that others waited in vain
            raise next((error for error in failed if not isinstance(error, BrokenBarrierError)), failed[0])
        return count * steps / max(task.result() for task in tasks)


def several_at_once(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """Steps per second of all models together, for 1 to 8 of them."""
    rows = []
    for name in MODELS:
        for count in (1, 2, 4, 8):
            row: dict[str, Any] = {"model": name, "models at once": count}
            way = Way("graph", "tf32")
            row["streams"] = streams(name, way, device, count, steps)
            with float32_products("tf32"):
                row["vmap"] = vmapped(name, device, count, steps)
            row["processes"] = processes(name, way, device, count, steps)
            rows.append(row)
            print(row, flush=True)
    return rows


def sample_of_sigma(
    name: str,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    scale: Scale = PAPER,
    **options: Any,
) -> Callable[[], SpectralNorm]:
    """Return what takes a sample of sigma. Weights, batch and start are the same in every type of number."""
    inputs, labels = images(scale.batch_size, device)
    model = new_model(name, device, width=scale.width).to(dtype)
    loss = batch_loss(model, OBJECTIVE, (inputs.to(dtype), labels))
    generator = make_generator(0, "benchmark", "start")
    start = {key: torch.randn(p.shape, generator=generator).to(p) for key, p in snapshot(model).items()}

    def sample() -> SpectralNorm:
        with float32_products("ieee"):
            return top_singular_value(loss, snapshot(model), start=start, **options)

    return sample


def sigma(device: torch.device) -> list[dict[str, Any]]:
    """Seconds and products of one sample of sigma, whole basis and bounded."""
    rows = []
    for name in MODELS:
        copy = 4 * sum(p.numel() for p in new_model(name, device).parameters())
        for max_basis in (None, 4, 3):
            sample = sample_of_sigma(name, device, max_basis=max_basis)
            sample()
            wait(device)
            torch.cuda.reset_peak_memory_stats()
            held, started = torch.cuda.memory_allocated(), time.perf_counter()
            found = sample()
            wait(device)
            rows.append(
                {
                    "model": name,
                    "basis": max_basis or "whole",
                    "seconds": time.perf_counter() - started,
                    "products": found.hvps,
                    "copies of w": (torch.cuda.max_memory_allocated() - held) / copy,
                }
            )
            print(rows[-1], flush=True)
    return rows


def cell(model: str, gamma: float) -> Any:
    """Return the settings of a cell of Table 1."""
    from unrolling.runs import RunConfig

    return RunConfig(
        model=model,
        gamma=gamma,
        pretrain_epochs=EPOCHS,
        epochs=1,
        dtype="float32",
        products="tf32",
        sigma_every=SIGMA_EVERY,
        record_every=0,
    )


def _cell(task: tuple[str, float]) -> float:
    from unrolling.runs.execute import execute

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    dataset = Dataset(
        name="noise",
        train_inputs=images(EXAMPLES, cpu)[0],
        train_labels=images(EXAMPLES, cpu)[1],
        test_inputs=images(TEST_EXAMPLES, cpu)[0],
        test_labels=images(TEST_EXAMPLES, cpu)[1],
        class_names=tuple(map(str, range(CLASSES))),
        fingerprint="0" * 16,
        description="noise in the shape of CIFAR-10",
    )
    started = time.perf_counter()
    execute(cell(*task), dataset, device="cuda", graphs=True)
    return time.perf_counter() - started


def table_1(jobs: int) -> dict[str, Any]:
    """Run Table 1's 12 cells from beginning to end, on noise, in so many processes; return the seconds."""
    tasks = [(model, gamma) for model in MODELS for gamma in GAMMAS]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        seconds = pool.map(_cell, tasks, chunksize=1)
    return {"jobs": jobs, "cells": len(tasks), "seconds": time.perf_counter() - started, "of each": seconds}


def estimate_of_table_1(rates: list[dict[str, Any]], samples: list[dict[str, Any]]) -> dict[str, float]:
    """Return minutes for the 12 cells one after the other: steps and samples of sigma; tests are left out."""
    steps = EXAMPLES // BATCH_SIZE
    minutes = {}
    for kind in STEPPERS:
        seconds = 0.0
        for name in MODELS:
            (rate,) = (row[kind] for row in rates if (row["model"], row["products"]) == (name, "tf32"))
            (sample,) = (row["seconds"] for row in samples if (row["model"], row["basis"]) == (name, "whole"))
            seconds += len(GAMMAS) * (steps * (EPOCHS + 2) / rate + steps / SIGMA_EVERY * sample)
        minutes[kind] = seconds / 60
    return minutes


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print tables and write ``gpu.json``, or ``gpu_short.json``; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="steps of each timing (default: 200)")
    parser.add_argument(
        "--table-1", type=int, metavar="JOBS", help="also run the 12 cells, in JOBS processes"
    )
    parser.add_argument("--short", action="store_true", help="is it right, and how fast: two minutes")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse --short with tiny networks"
    )
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="folder of what is found")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device; PyTorch sees none here.")
    if arguments.device == "cpu" and not arguments.short:
        raise SystemExit("--device cpu rehearses --short; the long form needs a CUDA device.")
    load, device = os.getloadavg(), torch.device(arguments.device)
    if arguments.short:
        from benchmarks.gpu_short import answer

        return answer(device, arguments.results, load)
    same = equality(device)
    common.table(
        "largest difference from the eager loop, float64", ["what", "difference"], list(same.items())
    )
    rates = one_at_a_time(device, arguments.steps)
    together = several_at_once(device, arguments.steps)
    samples = sigma(device)
    for title, rows in (
        ("steps per second, one model", rates),
        ("steps per second, all models, tf32", together),
        ("one sample of sigma, ieee", samples),
    ):
        common.table(title, list(rows[0]), [list(row.values()) for row in rows])
    minutes = estimate_of_table_1(rates, samples)
    common.table("Table 1, 12 cells one after the other, estimated", list(minutes), [list(minutes.values())])
    results = {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "equality": same,
        "one_at_a_time": rates,
        "several_at_once": together,
        "sigma": samples,
        "table_1_estimated_minutes": minutes,
    }
    if arguments.table_1:
        results["table_1"] = table_1(arguments.table_1)
        print(results["table_1"])
    print(common.write("gpu", results, load, folder=arguments.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
