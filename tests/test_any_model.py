"""Every kind of layer that PyTorch trains, by every method: what a loop by hand gives, or one line why not.

The references copy no model and swap no weights: they build the network anew, load a state, and call
backward. Hessians are differences of gradients.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from any_layers import CLASSES, KINDS, NUMBER, build, data

from unrolling import BatchOrder, accuracy, cross_entropy, make_generator, seeded, train
from unrolling._checks import InputError
from unrolling.methods import METHODS
from unrolling.methods.others.dp_sgd import run_dp_sgd
from unrolling.methods.others.fisher_scrubbing import diagonal_fisher, run_fisher_scrubbing
from unrolling.methods.others.per_example import ExampleJacobians
from unrolling.methods.problem import NotApplicable, Problem, as_model
from unrolling.parameters import Params, distance, norm, snapshot
from unrolling.training import Observer, copy_for_retraining, independent_copy

ETA = 0.1
BATCHES = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))
ORDER, FORGET = BatchOrder(BATCHES * 2), BATCHES[1]
FORGOTTEN = [step for step, batch in enumerate(ORDER) if batch == FORGET]
#: Where a step's gradient is no derivative: spectral norm takes its singular vectors, which depend on the
#: weights, for constants.
NO_HESSIAN = {"spectral norm", "old spectral norm"}


SECOND = {"second_order", "linear_propagation"}
#: What is refused in one line. DeltaGrad finds that its losses are not those of training, where they are
#: drawn or keep a state. PyTorch has no second derivative of bags; of a model that recomputes, sums of losses
#: have none that can be trusted. Filtration may always find that the logits are no linear layer's of its own.
REFUSED = {
    "dropout": {"deltagrad"},
    "spectral norm": {"deltagrad"},
    "old spectral norm": {"deltagrad"},
    "embedding bag": SECOND,
    "recomputing": SECOND | {"single_gradient", "final_gradient"},
}


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def problem_of(kind):
    inputs, labels = data(kind)
    return Problem(
        model=build(kind),
        loss_fn=loss_fn,
        l2=0.0,
        inputs=inputs,
        labels=labels,
        num_classes=CLASSES,
        order=ORDER,
        learning_rate=ETA,
        forget=FORGET,
        seed=0,
    )


class ByHand:
    """Plain SGD by ``torch.optim`` in the mode, order and random state of the problem's own training."""

    def __init__(self, kind, steps=ORDER.steps):
        self.kind = kind
        self.inputs, self.labels = data(kind)
        self.model = build(kind).train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=ETA)
        self.states = [copy.deepcopy(self.model.state_dict())]
        self.released = []  # gradients of each batch just after its step
        with seeded(0, "training"):
            for batch in steps:
                optimizer.zero_grad()
                loss_fn(self.model, self.batch(batch)).backward()
                optimizer.step()
                self.states.append(copy.deepcopy(self.model.state_dict()))
                random = torch.get_rng_state()
                self.released.append(self.gradient(self.states[-1], batch))
                torch.set_rng_state(random)

    def batch(self, examples):
        return self.inputs[list(examples)], self.labels[list(examples)]

    def at(self, state, training=True):
        """Return the network at a state, or at weights with the buffers it starts with."""
        model = build(self.kind).train(training)
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            for name, p in model.named_parameters():  # of two tied names the first one counts
                p.copy_(state.get(name, p))
        return model

    def weights(self, step):
        names = [name for name, p in build(self.kind).named_parameters() if p.requires_grad]
        return {name: self.states[step][name] for name in names}

    def gradient(self, state, examples):
        """Return the gradient in training mode."""
        model = self.at(state)
        loss_fn(model, self.batch(examples)).backward()
        return {name: dense(p) for name, p in model.named_parameters() if p.requires_grad}

    def product(self, state, examples, direction, h=1e-6):
        """Return a Hessian-vector product by a central difference."""
        length = norm(direction)
        if not length:
            return direction
        ends = [
            self.gradient({k: w + s * h / length * direction[k] for k, w in state.items()}, examples)
            for s in (1, -1)
        ]
        return {k: (ends[0][k] - ends[1][k]) * (length / (2 * h)) for k in direction}

    def jacobian(self, state, numbers):
        """Return the numbers of every example, (n, k), and each one's gradients, one example at a time."""
        rows, values = [], []
        for x in self.inputs:
            model = self.at(state, training=False)
            found = numbers(model(x[None].clone())[0])
            values.append(found.detach())
            slopes = []
            for number in found:
                model.zero_grad()
                number.backward(retain_graph=True)
                slopes.append({name: dense(p) for name, p in model.named_parameters() if p.requires_grad})
            rows.append(slopes)
        return rows, torch.stack(values)


def dense(p):
    if p.grad is None:
        return torch.zeros_like(p)
    return (p.grad.to_dense() if p.grad.is_sparse else p.grad).clone()


def plus(params: Params, *terms) -> Params:
    return {k: w + sum(scale * term[k] for scale, term in terms) for k, w in params.items()}


# What each method gives, written out.


def nothing(hand):
    return hand.weights(-1)


def retrain(hand):
    return ByHand(hand.kind, ORDER.without_batch(FORGET).steps).weights(-1)


def single_gradient(hand):
    return plus(hand.weights(-1), (2 * ETA, hand.gradient(hand.states[0], FORGET)))


def final_gradient(hand):
    return plus(hand.weights(-1), (ETA, hand.gradient(hand.weights(-1), FORGET)))


def amnesiac(hand):
    moves = [(-1, plus(hand.weights(i + 1), (-1, hand.weights(i)))) for i in FORGOTTEN]
    return plus(hand.weights(-1), *moves)


def amnesiac_released(hand):
    return plus(hand.weights(-1), *((ETA, hand.released[i]) for i in FORGOTTEN))


def second_order(hand):
    """Eq. 6 pair by pair."""
    start = hand.weights(0)
    slopes = [hand.gradient(start, batch) for batch in ORDER]
    terms = [(ETA, slopes[i]) for i in FORGOTTEN]
    for i, batch in enumerate(ORDER):
        for j in range(i):
            if i in FORGOTTEN or j in FORGOTTEN:
                terms.append((-(ETA**2), hand.product(start, batch, slopes[j])))
    return plus(hand.weights(-1), *terms)


def linear_propagation(hand):
    delta = {k: torch.zeros_like(w) for k, w in hand.weights(0).items()}
    for i, batch in enumerate(ORDER):
        if i in FORGOTTEN:
            delta = plus(delta, (ETA, hand.gradient(hand.weights(i), batch)))
        else:
            delta = plus(delta, (-ETA, hand.product(hand.weights(i), batch, delta)))
    return plus(hand.weights(-1), (1, delta))


def fisher(hand, inputs=None):
    hand.inputs = hand.inputs if inputs is None else inputs
    # A method's outcome keeps the buffers of M.
    rows, logs = hand.jacobian(hand.states[-1], lambda logits: logits.log_softmax(dim=0))
    return {
        k: sum(
            p.exp() * row[k] ** 2
            for r, line in zip(rows, logs, strict=True)
            for row, p in zip(r, line, strict=True)
        )
        / len(rows)
        for k in hand.weights(0)
    }


def fisher_scrubbing(hand):
    kept = sorted(set(range(NUMBER)) - set(FORGET))
    found = fisher(hand, hand.inputs[kept])
    generator = make_generator(0, "fisher scrubbing")
    return {
        k: w
        + 1e-6**0.25 * (found[k] + 1e-4) ** -0.25 * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        for k, w in hand.weights(-1).items()
    }


def linear_filtration(hand):
    """Normalise the logits of the forgotten class, which all of F and nothing else is of; numpy's solver."""
    model = hand.at(hand.states[-1], training=False)
    logits, forgotten = model(hand.inputs.clone()).detach(), int(hand.labels[FORGET[0]])
    means = torch.stack([logits[hand.labels == c].mean(dim=0) for c in range(CLASSES)], dim=1)
    others = [c for c in range(CLASSES) if c != forgotten]
    target = means[others].clone()
    target[:, forgotten] += means[others][:, others].mean() - means[others, forgotten].mean()
    matrix = torch.from_numpy(np.linalg.solve(means.T.numpy(), target.T.numpy()).T)
    last = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)][-1]
    rows = {k: matrix @ hand.weights(-1)[k] for k in (f"{last}.weight", f"{last}.bias")}
    return hand.weights(-1) | rows


def ntk_scrubbing(hand):
    """The linearised networks' minima from the normal equations in the weights, not from the kernel."""
    rows, outputs = hand.jacobian(hand.states[0], lambda logits: logits)
    residuals = outputs - F.one_hot(hand.labels, CLASSES)
    jacobian = torch.stack(
        [torch.stack([torch.cat([g.flatten() for g in r.values()]) for r in rs]) for rs in rows]
    )

    def minimum(examples):
        a, r = jacobian[examples].flatten(0, 1), residuals[examples].flatten()
        normal = a.T @ a / len(examples) + 1e-3 * torch.eye(a.shape[1], dtype=a.dtype)
        return torch.linalg.solve(normal, -a.T @ r / len(examples))

    kept = sorted(set(range(NUMBER)) - set(FORGET))
    move = minimum(kept) - minimum(list(range(NUMBER)))
    end = hand.weights(-1)
    parts = move.split([w.numel() for w in end.values()])
    return {k: w + part.view(w.shape) for (k, w), part in zip(end.items(), parts, strict=True)}


REFERENCES = {
    "retrain": (retrain, 1e-12),
    "nothing": (nothing, 1e-12),
    "single_gradient": (single_gradient, 1e-12),
    "final_gradient": (final_gradient, 1e-12),
    "second_order": (second_order, 1e-7),
    "linear_propagation": (linear_propagation, 1e-7),
    "deltagrad": (retrain, 1e-12),  # six steps are within the burn-in: all are exact
    "amnesiac": (amnesiac, 1e-12),
    "amnesiac_released": (amnesiac_released, 1e-12),
    "fisher_scrubbing": (fisher_scrubbing, 1e-9),
    "ntk_scrubbing": (ntk_scrubbing, 1e-8),
    "linear_filtration": (linear_filtration, 1e-9),
}
#: Methods of their own training, or for convex models; those below have tests of their own.
OTHERS = {"sisa", "dp_sgd", "certified_removal", "newton_removal"}


def test_every_method_is_in_the_table():
    assert REFERENCES.keys() | OTHERS == METHODS.keys()


def outcome_or_reason(run):
    """Return the outcome, or None if the method says in one line why there is none."""
    try:
        return run()
    except (NotApplicable, InputError) as error:
        reason = str(error)
    assert reason
    assert "\n" not in reason
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_gives_what_a_loop_by_hand_gives(kind):
    problem, hand = problem_of(kind), ByHand(kind)
    torch.manual_seed(7)  # losses in training mode draw from here, at every call the same
    missing = []
    for name, (reference, tolerance) in REFERENCES.items():
        if kind in NO_HESSIAN and name in SECOND:
            continue
        outcome = outcome_or_reason(lambda name=name: METHODS[name].run(problem))
        if outcome is None:
            missing.append(name)
            continue
        expected = reference_of(reference, hand)
        assert distance(outcome.unlearned.params, expected) <= tolerance * (1 + norm(expected)), name
    assert set(missing) <= REFUSED.get(kind, set()) | {"linear_filtration"}


def reference_of(reference, hand):
    random = torch.get_rng_state()

    class Frozen(ByHand):
        def __init__(self):
            self.__dict__.update(hand.__dict__)

        def gradient(self, state, examples):
            torch.set_rng_state(random)
            return super().gradient(state, examples)

    found = reference(Frozen())
    torch.set_rng_state(random)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_methods_that_train_otherwise_are_exact_or_say_why_not(kind):
    problem = problem_of(kind)
    outcome = outcome_or_reason(lambda: METHODS["sisa"].run(problem))
    if kind != "batch norm, flat":  # whose slices of one example have no statistics
        assert distance(outcome.unlearned.params, outcome.retrained.params) == 0
        assert distance(outcome.trained.params, outcome.retrained.params) > 0
    for name in ("certified_removal", "newton_removal"):
        assert outcome_or_reason(lambda name=name: METHODS[name].run(problem)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_private_training_without_noise_is_sgd_on_poisson_batches(kind):
    problem = problem_of(kind)
    outcome = outcome_or_reason(lambda: run_dp_sgd(problem, noise_multiplier=0.0, clipping_norm=1e9))
    if kind.startswith("batch norm"):
        assert outcome is None
        return
    assert "trained without noise, which guarantees nothing" in outcome.broken
    if kind == "dropout":  # one mask for each example, drawn otherwise than by hand
        assert distance(outcome.trained.params, problem.initial_params) > 0.01
        return
    model = build(kind).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=ETA)
    generator, sizes = make_generator(0, "dp-sgd", "M"), []
    for _ in ORDER:
        index = (torch.rand(NUMBER, generator=generator) < 4 / NUMBER).nonzero()[:, 0]
        sizes.append(len(index))
        optimizer.zero_grad()
        before = {name: b.clone() for name, b in model.named_buffers()}
        for x, y in zip(problem.inputs[index], problem.labels[index], strict=True):
            model.load_state_dict(before, strict=False)  # every example sees the same buffers
            (loss_fn(model, (x[None].clone(), y[None])) / 4).backward()
        optimizer.step()
    assert sum(sizes) > 6
    assert distance(outcome.trained.params, snapshot(model)) < 1e-7  # Opacus adds 1e-6 to every norm
    with torch.no_grad():
        expected = model.eval()(problem.inputs.clone())
    torch.testing.assert_close(outcome.trained.logits(problem.inputs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_together_and_one_by_one_are_the_same(kind):
    """The Fisher information by whichever way the model allows is that of single backward passes."""
    hand = ByHand(kind)
    found = diagonal_fisher(build(kind), hand.weights(-1), hand.inputs, chunk_size=5)
    hand.states.append(hand.weights(-1))  # buffers are those of the model given
    assert distance(found, fisher(hand)) < 1e-12
    assert found.keys() == hand.weights(0).keys()


def test_most_layers_go_through_together_and_the_others_one_by_one():
    def together(kind):
        derivatives = ExampleJacobians(build(kind).eval(), lambda logits: logits[0])
        derivatives(data(kind)[0])
        return derivatives._together

    alone = {kind for kind in KINDS if not together(kind)}
    assert {"gru", "rnn", "distilbert-small", "used sometimes", "recomputing"} <= alone
    assert len(alone) < len(KINDS) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_weights_of_its_own_and_gives_the_same(kind):
    model, (inputs, labels) = build(kind), data(kind)
    train(model, inputs, labels, BatchOrder(BATCHES), loss_fn, learning_rate=ETA)
    copied = independent_copy(model)
    before = snapshot(copied)
    train(model, inputs, labels, BatchOrder(BATCHES), loss_fn, learning_rate=ETA)
    assert distance(snapshot(copied), before) == 0
    assert distance(snapshot(model), before) > 0
    assert accuracy(copied, inputs, labels) == accuracy(copy_for_retraining(copied), inputs, labels)


def test_data_are_left_alone_by_a_layer_that_works_in_place():
    inputs, labels = data("in place first")
    before = inputs.clone()
    problem = problem_of("in place first")
    for name in METHODS:
        outcome_or_reason(lambda name=name: METHODS[name].run(problem))
    accuracy(problem.model, problem.inputs, labels)
    as_model(problem.model).logits(problem.inputs)
    assert torch.equal(problem.inputs, before)


class Named(torch.nn.Module):
    """What transformers return: the logits under a name."""

    def __init__(self, body, form):
        super().__init__()
        self.body, self.form = body, form

    def forward(self, x):
        found = self.body(x)
        return {"logits": found} if self.form == "dict" else (found, None)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_models_that_return_no_tensor_are_told_how_to_be_wrapped(form):
    inputs, labels = data("linear")
    model = Named(build("linear"), form)
    line = f"the model returned a {form}; expected logits, one tensor.*Wrap it in a module"

    def named_loss(model, batch):
        found = model(batch[0])
        return cross_entropy(found["logits"] if form == "dict" else found[0], batch[1])

    problem = Problem(model, named_loss, 0.0, inputs, labels, CLASSES, ORDER, ETA, FORGET, 0)
    for call in (
        lambda: train(model, inputs, labels, ORDER, loss_fn, learning_rate=ETA),
        lambda: accuracy(model, inputs, labels),
        lambda: as_model(model).logits(inputs),
        lambda: diagonal_fisher(model, snapshot(model), inputs),
        lambda: run_fisher_scrubbing(problem),
        lambda: METHODS["ntk_scrubbing"].run(problem),
        lambda: METHODS["dp_sgd"].run(problem),
    ):
        with pytest.raises((InputError, NotApplicable), match=line):
            call()
    assert METHODS["single_gradient"].run(problem).unlearned.params  # asks for a loss alone


def test_both_models_see_the_data_that_a_layer_in_place_changes():
    """M' takes its step after M, on the same batch, which M's first layer has overwritten by then."""
    kind = "in place first"
    (inputs, labels), model, watched = data(kind), build(kind), []
    retrained = copy_for_retraining(model)

    class Looks(Observer):
        def before_step(self, step, batch):
            watched.append(model(batch[0]))  # overwrites the batch as well

    train(
        model,
        inputs,
        labels,
        ORDER,
        loss_fn,
        learning_rate=ETA,
        retrained=retrained,
        forget=FORGET,
        observers=[Looks()],
    )
    assert distance(snapshot(model), ByHand(kind).weights(-1)) < 1e-12
    assert distance(snapshot(retrained), retrain(ByHand(kind))) < 1e-12
    assert len(watched) == len(ORDER)


@pytest.mark.parametrize("kind", ["spectral norm", "old spectral norm", "linear", "layer norm"])
def test_one_by_one_every_example_sees_the_same_buffers(kind):
    """Spectral norm's vectors move at every pass in training mode: once for a batch, not once an example."""
    inputs, labels = data(kind)
    found = []
    for together in (True, False):
        model = build(kind).train()
        losses = ExampleJacobians(model, lambda logits, label: cross_entropy(logits, label).reshape(1))
        losses._together = together
        slopes, values = losses(inputs, labels)
        assert losses._together is together
        found.append(slopes | {"values": values} | dict(model.named_buffers()))
    torch.testing.assert_close(found[0], found[1])
