"""Sections 5.2 and 5.3: the induced norm, the price of a product with the Hessian, the price of e."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from unrolling.curvature import hessian_operator
from unrolling.losses import Objective
from unrolling.model_loss import batch_loss, gradient
from unrolling.models import build_model
from unrolling.paper import Finding
from unrolling.parameters import snapshot
from unrolling.runs.config import RunConfig
from unrolling.runs.execute import execute
from unrolling.runs.inputs import load_data
from unrolling.runs.setup import set_up
from unrolling.seeding import make_generator, seeded
from unrolling.studies.ledger import check, error_text

PAGE = "04_unlearning_error"


@check("T19", page="05_singular_values")
def norm_is_the_root_of_the_largest_eigenvalue() -> Finding:
    """Compare the norm of random symmetric matrices with the printed formula and with the textbook's."""
    generator = make_generator(0, "claims", "T19")
    printed, textbook, negative, count = [], [], 0, 200
    for i in range(count):
        a = torch.randn(1 + i % 8, 1 + i % 8, generator=generator, dtype=torch.float64)
        norm = float(torch.linalg.matrix_norm(a + a.T, ord=2))
        eigenvalues = torch.linalg.eigvalsh(a + a.T)
        root = float(eigenvalues[-1].clamp(min=0).sqrt())  # a negative number has none: count it as 0
        printed.append(abs(root / norm - 1))
        textbook.append(abs(float(eigenvalues.abs().max()) / norm - 1))
        negative += bool(-eigenvalues[0] > eigenvalues[-1])
    return Finding(
        propositions={"the norm is the square root of the largest eigenvalue": max(printed) < 1e-9},
        value=max(printed),
        value_is=f"largest relative difference over {count} random symmetric matrices",
        reason="The norm is the largest absolute eigenvalue: their relative difference is "
        f"{error_text(max(textbook))}. In {negative} of {count} matrices that eigenvalue is negative, where "
        "the released code's root of it is not a number. The root rescales every sigma and e of the paper, "
        "and the ratios between them.",
    )


def flops(work: Callable[[], object]) -> int:
    """Return the floating point operations of convolutions and matrix products in ``work``."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def gradient_and_product_flops(model: str, width: int) -> tuple[int, int, int]:
    """Return the number of weights, the operations of a gradient, and of a product once its graph is kept."""
    shape, batch_size = (3, 32, 32), 2
    with seeded(0, "claims", "T21"):
        network = build_model(model, 10, input_shape=shape, width=width).double()
        batch = torch.randn(batch_size, *shape).double(), torch.arange(batch_size)
        direction = torch.randn(sum(p.numel() for p in network.parameters())).double()
    loss, params = batch_loss(network, Objective("cross_entropy"), batch), snapshot(network)
    product = hessian_operator(loss, params)
    return direction.numel(), flops(lambda: gradient(loss, params)), flops(lambda: product(direction))


@check("T21", page=PAGE)
def product_costs_a_gradient_and_is_linear_in_the_weights() -> Finding:
    """Count the operations of gradients and products of the paper's networks and an MLP over their width."""
    slopes, ratios = {}, {}
    for model, widths in (("resnet18", (2, 4, 8)), ("vgg19", (2, 4, 8)), ("mlp", (8, 32, 128))):
        sizes, gradients, products = np.array([gradient_and_product_flops(model, w) for w in widths]).T
        ratios[model] = products / gradients
        slopes[model] = float(np.polyfit(np.log(sizes), np.log(products), 1)[0])
    low, high = (float(f(list(ratios.values()))) for f in (np.min, np.max))
    return Finding(
        propositions={
            "a product costs one gradient at least and six at most": low >= 1 and high <= 6,
            "a product costs O(number of weights)": all(0.8 <= s <= 1.2 for s in slopes.values()),
        },
        value=high,
        value_is="most operations of a product relative to a gradient, its graph kept",
        reason=f"Counted, not timed: a product takes {low:.2f} to {high:.2f} times the operations of a "
        "gradient, and over the width they grow like the number of weights to the power "
        + ", ".join(f"{slope:.2f} ({model})" for model, slope in slopes.items())
        + ". Only convolutions and matrix products are counted.",
    )


@check("T23", page=PAGE)
def unlearning_error_needs_no_retraining() -> Finding:
    """Train without M' and without a forgotten batch, and compare e with runs that have both."""
    config = RunConfig(
        dataset="digits",
        train_size=160,
        test_size=50,
        model="mlp-tanh",
        batch_size=16,
        pretrain_epochs=0,
        epochs=2,
        sigma_every=4,
        record_every=4,
    )
    dataset, calls = load_data(config), 0
    objective = Objective(config.loss, config.gamma)

    def counted(network, batch):
        nonlocal calls
        calls += 1
        return objective(network, batch)

    again = set_up(config, dataset, loss_fn=counted)
    tracker = again.tracker(probe=False)  # the probe's passes would be counted
    again.train(observers=[tracker])
    found, order = tracker.result(), again.protocol.order
    beside = [execute(replace(config, forget_batch=i), dataset)["trace"] for i in (0, 7)]
    errors = [abs(trace["e"][-1] / found.unlearning_error - 1) for trace in beside]
    updates = {trace["v"][-1] for trace in beside}
    samples = len(found.sigma_steps)
    every = math.ceil((samples + 2 * found.hvps) / samples)
    return Finding(
        propositions={
            "e needs no retrained model": errors[0] == 0 and calls == len(order) + samples,
            "e needs no unlearning update": max(errors) == 0 and len(updates) == 2,
        },
        value=max(errors),
        value_is="largest relative difference of e with and without M' and a forgotten batch",
        reason=f"Training {len(order)} steps alone gives the e of runs with M' beside them, whichever batch "
        f"is forgotten, from {samples} samples of sigma with {found.hvps} Hessian-vector products. It is not "
        "free: with a product counted as two gradients, e here is as dear as retraining if sigma is sampled "
        f"every {every} steps.",
    )
