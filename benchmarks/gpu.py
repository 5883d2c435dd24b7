"""Training on one GPU, measured in one call: ``python -m benchmarks.gpu``.

Steps per second of plain SGD at b = 32, eager and from CUDA graphs, with float32 products of both kinds;
several settings at once by streams, by ``vmap`` and by processes; a sample of sigma; and what follows for the
cells of Table 1. Before anything is timed, what is timed is compared with the eager loop.

It needs torch, numpy, scipy, pandas and scikit-learn, and the project's folder on the path; ``--table-1``
needs pyyaml as well.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.vmapped import Ensemble
from unrolling import (
    BatchOrder,
    Dataset,
    Objective,
    batch_loss,
    build_model,
    gamma_from_released,
    make_generator,
    seeded,
    snapshot,
    top_singular_value,
    train,
)
from unrolling.cuda_graph import GraphStepper
from unrolling.precision import PRODUCTS, float32_products
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


def images(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return noise in the shape of CIFAR-10: a step takes as long whatever is in the picture."""
    generator = make_generator(0, "benchmark", "gpu")
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return torch.randn(count, 3, 32, 32, generator=generator).to(device), labels.to(device)


def new_model(name: str, device: torch.device, seed: int = 0) -> nn.Module:
    """Return a network with weights of its own."""
    with seeded(seed, "benchmark", "gpu"):
        return build_model(name, CLASSES).to(device)


def order_of(steps: int, count: int) -> BatchOrder:
    """Return so many full batches of the first ``count`` examples."""
    index = torch.randint(count, (steps, BATCH_SIZE), generator=make_generator(0, "benchmark", "order"))
    return BatchOrder(tuple(map(tuple, index.tolist())))


def take(model: nn.Module, data: tuple[Tensor, Tensor], steps: int, gamma: float, stepper: Stepper) -> float:
    """Train for so many steps as runs do, and return the seconds."""
    order = order_of(steps, len(data[0]))
    torch.cuda.synchronize()
    started = time.perf_counter()
    train(model, *data, order, Objective("sd", gamma), learning_rate=LEARNING_RATE, stepper=stepper)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Return the largest difference of weights and buffers, relative to the largest entry of a tensor."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def equality(device: torch.device) -> dict[str, Any]:
    """Compare what is timed with the eager loop in float64, where rounding cannot hide a mistake."""
    inputs, labels = images(256, device)
    data, found = (inputs.double(), labels), {}
    for name in MODELS:
        eager, graph = (new_model(name, device).double() for _ in range(2))
        take(eager, data, 5, 0.5, Stepper())
        take(graph, data, 5, 0.5, GraphStepper())
        found[f"{name}, graph"] = largest_difference(graph, eager)
        together = Ensemble([new_model(name, device).double()], [0.5])
        for batch in order_of(5, 256):
            index = torch.tensor(batch, device=device)
            together.step(data[0][index][None], data[1][index][None], LEARNING_RATE)
        stacked = new_model(name, device).double()
        stacked.load_state_dict({key: v[0] for key, v in (together.params | together.buffers).items()})
        found[f"{name}, vmap"] = largest_difference(stacked, eager)
    if wrong := {name: value for name, value in found.items() if not value < 1e-6}:
        raise SystemExit(f"not the eager loop's weights, nothing is timed: {wrong}")
    return found


def one_at_a_time(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """Steps per second of each network, eager and from graphs, with products of both kinds."""
    data, rows = images(2048, device), []
    for name in MODELS:
        for products in PRODUCTS:
            row: dict[str, Any] = {"model": name, "products": products}
            with float32_products(products):
                for kind, make in STEPPERS.items():
                    model, stepper = new_model(name, device), make()
                    take(model, data, 20, 0.5, stepper)
                    row[kind] = steps / min(take(model, data, steps, 0.5, stepper) for _ in range(3))
            rows.append(row | {"graph / eager": row["graph"] / row["eager"]})
            print(rows[-1], flush=True)
    return rows


def streams(name: str, device: torch.device, count: int, steps: int) -> float:
    """Steps per second of ``count`` models together, each replaying its graph on a stream of its own."""
    data = images(2048, device)
    runners = [(new_model(name, device, k), GraphStepper(), torch.cuda.Stream()) for k in range(count)]
    objectives = [Objective("sd", gamma) for gamma in (GAMMAS * count)[:count]]
    batches = [torch.tensor(batch, device=device) for batch in order_of(steps, 2048)]
    for model, _, _ in runners:
        model.train()
    started = 0.0
    for step, index in enumerate([batches[0], *batches]):
        if step == 1:  # the first one records
            torch.cuda.synchronize()
            started = time.perf_counter()
        for (model, stepper, stream), objective in zip(runners, objectives, strict=True):
            stream.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream):
                stepper.take(model, (data[0][index], data[1][index]), objective, LEARNING_RATE, step)
    torch.cuda.synchronize()
    return count * steps / (time.perf_counter() - started)


def vmapped(name: str, device: torch.device, count: int, steps: int) -> float:
    """Steps per second of ``count`` models together, trained as one."""
    data = images(2048, device)
    together = Ensemble([new_model(name, device, k) for k in range(count)], (GAMMAS * count)[:count])
    batches = [torch.tensor(batch, device=device) for batch in order_of(steps, 2048)]
    started = 0.0
    for step, index in enumerate([batches[0], *batches]):
        if step == 1:
            torch.cuda.synchronize()
            started = time.perf_counter()
        inputs = data[0][index].expand(count, *(-1,) * 4)
        together.step(inputs, data[1][index].expand(count, -1), LEARNING_RATE)
    torch.cuda.synchronize()
    return count * steps / (time.perf_counter() - started)


def _worker(name: str, products: str, seed: int, steps: int, ready: Any, seconds: Any) -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda")
    with float32_products(products):
        data, model, stepper = images(2048, device), new_model(name, device, seed), GraphStepper()
        take(model, data, 20, 0.5, stepper)
        ready.wait()
        seconds.put(take(model, data, steps, 0.5, stepper))


def processes(name: str, products: str, count: int, steps: int) -> float:
    """Steps per second of ``count`` models together, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ready, seconds = context.Barrier(count), context.Queue()
    workers = [
        context.Process(target=_worker, args=(name, products, seed, steps, ready, seconds))
        for seed in range(count)
    ]
    for worker in workers:
        worker.start()
    slowest = max(seconds.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    return count * steps / slowest


def several_at_once(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """Steps per second of all models together, for 1 to 8 of them."""
    rows = []
    for name in MODELS:
        for count in (1, 2, 4, 8):
            row: dict[str, Any] = {"model": name, "models at once": count}
            with float32_products("tf32"):
                row["streams"] = streams(name, device, count, steps)
                row["vmap"] = vmapped(name, device, count, steps)
            row["processes"] = processes(name, "tf32", count, steps)
            rows.append(row)
            print(row, flush=True)
    return rows


def sigma(device: torch.device) -> list[dict[str, Any]]:
    """Seconds and products of one sample of sigma, whole basis and bounded."""
    inputs, labels = images(BATCH_SIZE, device)
    rows = []
    for name in MODELS:
        model = new_model(name, device)
        loss = batch_loss(model, Objective("sd", 0.5), (inputs, labels))
        copy = 4 * sum(p.numel() for p in model.parameters())
        for max_basis in (None, 4, 3):

            def sample(loss: Any = loss, model: nn.Module = model, max_basis: int | None = max_basis) -> Any:
                return top_singular_value(
                    loss, snapshot(model), max_basis=max_basis, generator=make_generator(0, "benchmark")
                )

            with float32_products("ieee"):
                sample()
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                held, started = torch.cuda.memory_allocated(), time.perf_counter()
                found = sample()
                torch.cuda.synchronize()
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
    from unrolling.experiments import RunConfig

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
    from unrolling.experiments.run import execute

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


def main() -> None:
    """Measure, print tables and write ``results/gpu.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="steps of each timing (default: 200)")
    parser.add_argument(
        "--table-1", type=int, metavar="JOBS", help="also run the 12 cells, in JOBS processes"
    )
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device; PyTorch sees none here.")
    load, device = os.getloadavg(), torch.device("cuda")
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
    print(common.write("gpu", results, load))


if __name__ == "__main__":
    main()
