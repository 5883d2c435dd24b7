"""What each ingredient contributes, against what it replaces: ``python -m benchmarks.ingredients``."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common
from benchmarks.plain import weights_as_list
from benchmarks.workloads import BATCH_SIZE, NAMES, Workload, build, loss_fn
from unrolling import batch_loss, make_generator, snapshot, top_singular_value
from unrolling.curvature import hessian_operator
from unrolling.parameters import distance, from_vector, to_vector, trainable

Tasks = dict[str, Callable[[], Any]]

PRODUCTS = 8
#: Examples in the batch of a Hessian; the first is the batch of training.
HESSIAN_BATCHES = (BATCH_SIZE, 4 * BATCH_SIZE, 16 * BATCH_SIZE)


def of_the_products(workload: Workload) -> Tasks:
    """Eight products of one Hessian: on a kept graph, on a graph for each, forward over reverse."""
    workload.model.eval()
    params = snapshot(workload.model)
    loss = batch_loss(workload.model, loss_fn, workload.batch)
    size = sum(p.numel() for p in params.values())
    first = torch.randn(size, generator=make_generator(0, "benchmark"))

    def repeated(product: Callable[[Tensor], Tensor]) -> Tensor:
        vector = first
        for _ in range(PRODUCTS):
            vector = product(vector / vector.norm())
        return vector

    def forward_over_reverse(vector: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return to_vector(jvp(grad(loss), (params,), (from_vector(vector, params),))[1])

    return {
        "kept graph": lambda: repeated(hessian_operator(loss, params)),
        "graph for every product": lambda: repeated(lambda v: hessian_operator(loss, params)(v)),
        "forward over reverse": lambda: repeated(forward_over_reverse),
    }


def of_the_distance(workload: Workload) -> Tasks:
    """The distance of the weights from where they were."""
    model, start = workload.model, snapshot(workload.model)
    listed = weights_as_list(model)

    def by_lists() -> float:
        pairs = zip(weights_as_list(model), listed, strict=True)
        return sum((a - b) ** 2 for a, b in pairs) ** 0.5

    return {"tensors": lambda: distance(trainable(model), start), "Python lists": by_lists}


def of_the_data(workload: Workload) -> Tasks:
    """One epoch of batches, without a network."""
    inputs, labels = workload.inputs, workload.labels
    order = workload.order(workload.steps_of_an_epoch)

    def resident() -> list[tuple[Tensor, Tensor]]:
        return [(inputs[rows], labels[rows]) for rows in map(torch.tensor, order)]

    loader = DataLoader(TensorDataset(inputs, labels), batch_size=BATCH_SIZE, sampler=sum(order, ()))
    return {"resident": resident, "DataLoader": lambda: list(loader)}


def of_the_hessian_batch(workload: Workload) -> Tasks:
    """One sample of sigma on batches of several sizes, each with as many products."""

    def sample(size: int) -> Callable[[], Any]:
        batch = workload.inputs[:size], workload.labels[:size]
        loss, params = batch_loss(workload.model, loss_fn, batch), snapshot(workload.model)
        generator = make_generator(0, "benchmark")
        return lambda: top_singular_value(loss, params, rtol=1e-12, max_hvps=PRODUCTS, generator=generator)

    return {f"{size} examples": sample(size) for size in HESSIAN_BATCHES}


#: What is compared: the package's choice is the first task of each.
PARTS: dict[str, Callable[[Workload], Tasks]] = {
    f"{PRODUCTS} products": of_the_products,
    "distance": of_the_distance,
    "an epoch of batches": of_the_data,
    "Hessian batch": of_the_hessian_batch,
}


def measured(tasks: Tasks, repeats: int) -> dict[str, Any]:
    """Time the tasks in turns; each over the first."""
    for task in tasks.values():
        task()
    times = common.interleaved(tasks, repeats)
    own, *others = tasks
    return {"own": own, "times": times, "ratios": {name: common.ratio(times, name, own) for name in others}}


def main() -> None:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="ingredients", help="name of the JSON in results/")
    args = parser.parse_args()
    load = os.getloadavg()
    results: dict[str, Any] = {part: {} for part in PARTS}
    for name in args.workloads:
        workload = build(name)
        for part, tasks_of in PARTS.items():
            found = results[part][name] = measured(tasks_of(workload), args.repeats)
            common.table(
                f"{name}, {part}: CPU time over that of {found['own']}",
                ["instead", "median", "smallest", "largest"],
                [[other, *ratio["cpu"].values()] for other, ratio in found["ratios"].items()],
            )
        common.write(args.out, {"parts": results}, load, finished=False)
    print(common.write(args.out, {"parts": results}, load))


if __name__ == "__main__":
    main()
