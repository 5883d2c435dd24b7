"""What the tracker sees of an optimiser: rates, steps, and in words what Eq. 9 does not cover."""

import copy
import gc
import io
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unrolling import UnlearningTracker, make_generator, snapshot
from unrolling._checks import InputError
from unrolling._optimizer import momentum_factor

ETA, STEPS = 0.05, 8
cross_entropy = nn.functional.cross_entropy


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def network(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *more, nn.Linear(8, 3)).double()


def batches(num=STEPS, size=8):
    generator = make_generator(0, "batches")
    for _ in range(num):
        yield (
            torch.randn(size, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )


def loop(model, optimizer, tracker=None, *, parts=1, clip=None, loss_fn=loss_fn, after=None, data=None):
    """A user's training loop."""
    for step, (x, y) in enumerate(data or batches()):
        for part in zip(x.chunk(parts), y.chunk(parts), strict=True):
            if tracker:
                tracker.step(part)
            (loss_fn(model, part) / parts).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        if after:
            after(step)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": ETA, **options})


def tracked(make=sgd, *, model=None, every=3, **options):
    """The result of a tracker that knows the optimiser, beside a training of which nothing is known."""
    model = model or network()
    optimizer = make(model)
    tracker = UnlearningTracker(model, options.pop("tracked_loss", loss_fn), optimizer=optimizer, every=every)
    loop(model, optimizer, tracker, **options)
    return tracker.result()


def by_eye(make=sgd, *, every=3, learning_rate=ETA, model=None, **options):
    """The result of a tracker that is told a rate alone."""
    model = model or network()
    tracker = UnlearningTracker(model, loss_fn, learning_rate=learning_rate, every=every)
    loop(model, make(model), tracker, **options)
    return tracker.result()


def sigma(model, batch):
    """The largest singular value of the Hessian, dense and without the package."""
    params = [p.detach() for p in model.parameters()]
    sizes = [p.numel() for p in params]

    def loss(flat):
        parts = flat.split(sizes)
        named = {
            name: part.view(p.shape) for (name, p), part in zip(model.named_parameters(), parts, strict=True)
        }
        return cross_entropy(torch.func.functional_call(model, named, (batch[0],)), batch[1])

    flat = torch.cat([p.reshape(-1) for p in params])
    return float(torch.linalg.matrix_norm(torch.autograd.functional.hessian(loss, flat), 2))


# Plain SGD: nothing to say


def test_plain_sgd_meets_all_that_equation_9_asks():
    found = tracked()
    assert found.broken == ()
    assert found.unlearning_error_effective is None
    assert (found.num_steps, found.sigma_steps, found.learning_rate) == (STEPS, (0, 3, 6), ETA)
    assert found == by_eye()


@pytest.mark.paper("Eq. 9")
def test_every_factor_is_that_of_a_loop_by_hand():
    model = network()
    before, sigmas = snapshot(model), []
    for step, batch in enumerate(batches()):
        if step % 3 == 0:
            sigmas.append(sigma(model, batch))
        grads = torch.autograd.grad(loss_fn(model, batch), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p -= ETA * g
    change = sum(float((p.detach() - before[n]).square().sum()) for n, p in model.named_parameters()) ** 0.5
    average = sum(sigmas) / 3
    found = tracked()
    assert found.weight_change == pytest.approx(change, rel=1e-12)
    assert found.sigma_avg == pytest.approx(average, rel=1e-3)
    expected = ETA**2 * change / STEPS * found.sigma_avg * (STEPS**2 - STEPS) / 2
    assert found.unlearning_error == pytest.approx(expected, rel=1e-12)


def test_steps_count_whether_or_not_the_tracker_is_told_of_them():
    model = network()
    optimizer = sgd(model)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=1)
    for step, batch in enumerate(batches()):
        if step in (0, 5):
            tracker.step(batch)
        loss_fn(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = tracker.result()
    assert (found.num_steps, found.sigma_steps, found.broken) == (STEPS, (0, 5), ())


# Rates


def test_a_schedule_gives_e_at_the_mean_rate_and_says_so():
    model, rates = network(), []
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=3)
    optimizer.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
    loop(model, optimizer, tracker, after=lambda step: schedule.step())
    found, rates = tracker.result(), torch.tensor(rates, dtype=torch.float64)
    mean = float(rates.mean())
    assert found.learning_rate == pytest.approx(mean, rel=1e-12)
    factors = found.weight_change * found.sigma_avg
    assert found.unlearning_error == pytest.approx(mean**2 * factors * (STEPS - 1) / 2, rel=1e-12)
    (words,) = found.broken
    assert words.startswith("a schedule: rates from 0.0019")
    assert words.endswith("to 0.05; e takes their mean")
    # The derivation with a rate for each step: sum over i < j of eta_i eta_j, over the sum of eta.
    pairs = (rates.sum() ** 2 - (rates**2).sum()) / 2 / rates.sum()
    spread = float(rates.var(correction=0)) / mean**2 / (STEPS - 1)
    assert float(pairs * factors) == pytest.approx(found.unlearning_error_corrected * (1 - spread), rel=1e-12)


def test_groups_with_two_rates_are_named_and_the_largest_counts():
    def make(model):
        return torch.optim.SGD(
            [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters()}], lr=ETA
        )

    found = tracked(make)
    assert found.learning_rate == pytest.approx(ETA)
    assert found.broken == ("groups with rates from 0.01 to 0.05; e takes the largest",)


def test_a_rate_that_is_a_tensor():
    found = tracked(lambda model: sgd(model, lr=torch.tensor(ETA, dtype=torch.float64)))
    assert (found.broken, found.learning_rate) == ((), pytest.approx(ETA))


# What is not plain SGD


@pytest.mark.parametrize(
    ("options", "words", "factor"),
    [
        ({"momentum": 0.9}, "momentum 0.9", 10),
        ({"momentum": 0.9, "nesterov": True}, "Nesterov momentum 0.9", 10),
        ({"momentum": 0.5, "dampening": 0.5}, "momentum 0.5", 1),
    ],
)
def test_momentum_is_named_and_gives_e_at_the_effective_rate_beside(options, words, factor):
    found = tracked(lambda model: sgd(model, **options))
    assert found.broken == (words,)
    assert found.unlearning_error_effective == pytest.approx(factor**2 * found.unlearning_error, rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "dampening": 0.3}],
)
def test_the_effective_rate_is_how_often_a_gradient_is_applied_in_the_end(options):
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=ETA, **options)
    for step in range(400):
        weight.grad = torch.full((1,), float(step == 1), dtype=torch.float64)  # the first is not dampened
        optimizer.step()
    factor = momentum_factor(optimizer, {"weight": weight})
    assert -weight.item() / ETA == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_another_optimiser_is_named(name):
    found = tracked(lambda model: getattr(torch.optim, name)(model.parameters(), lr=1e-3))
    assert found.broken == (f"the optimiser is {name}, not plain SGD",)
    assert found.unlearning_error_effective is None


def test_weight_decay_and_ascent_are_named():
    found = tracked(lambda model: sgd(model, weight_decay=5e-4, maximize=True))
    assert found.broken == (
        "weight decay 0.0005 in the optimiser, which sigma knows nothing of",
        "the optimiser maximizes the loss",
    )


def test_parameters_that_the_optimiser_does_not_hold_are_named():
    found = tracked(lambda model: torch.optim.SGD(model[0].parameters(), lr=ETA))
    assert found.broken == ("the optimiser does not hold 2 of the parameters (2.weight)",)


@pytest.mark.parametrize(
    "more", [(), (nn.Dropout(0.5),), (nn.BatchNorm1d(8),)], ids=["", "dropout", "batch norm"]
)
@pytest.mark.parametrize("run", [tracked, by_eye])
def test_clipping_is_seen_at_the_sampled_steps(run, more):
    assert run(model=network(*more)).broken == ()
    (words,) = run(model=network(*more), clip=0.01).broken
    assert words.startswith("at step 0 the gradient that was applied is 0.0")
    assert "times that of loss_fn on the batch (and 2 more): clipping" in words


def test_numbers_drawn_between_the_tracker_and_the_step_are_no_clipping():
    def noisy(model, batch):
        torch.rand(3)  # an augmentation, say
        return loss_fn(model, batch)

    assert tracked(model=network(nn.Dropout(0.5)), loss_fn=noisy).broken == ()
    assert by_eye(model=network(nn.Dropout(0.5)), loss_fn=noisy).broken == ()


@pytest.mark.parametrize("run", [tracked, by_eye])
def test_modes_are_those_that_the_training_has(run):
    model = network(nn.BatchNorm1d(8))
    model[2].eval()  # frozen statistics, as in fine-tuning
    assert run(model=model).broken == ()


def test_another_loss_than_the_trackers_is_seen():
    def with_penalty(model, batch):
        return loss_fn(model, batch) + sum(p.square().sum() for p in model.parameters())

    (words,) = tracked(loss_fn=with_penalty).broken
    assert "is not that of loss_fn on the batch (cosine 0." in words
    (words,) = tracked(loss_fn=lambda m, b: 8 * loss_fn(m, b)).broken
    assert "is 8 times that of loss_fn" in words


def test_accumulation_counts_the_optimisers_steps():
    found = tracked(parts=4)
    assert (found.num_steps, found.sigma_steps) == (STEPS, (0, 3, 6))
    (words,) = found.broken
    assert words.startswith("gradient accumulation: up to 4 calls of step for one step of the optimiser")
    model = network()
    first = next(iter(batches()))
    assert abs(found.eigenvalues[0]) == pytest.approx(sigma(model, (first[0][:2], first[1][:2])), rel=1e-3)
    whole = tracked()
    assert found.weight_change == pytest.approx(whole.weight_change, rel=1e-12)


def test_accumulation_is_seen_without_the_optimiser_too():
    found = by_eye(parts=4, every=100)
    assert found.num_steps == 4 * STEPS
    assert found.broken[0].startswith(f"at {3 * STEPS} of {4 * STEPS} steps the weights had not moved")


def test_a_loss_that_ignores_the_model_is_named():
    elsewhere = network()
    for ignoring in (lambda m, b: loss_fn(elsewhere, b), lambda m, b: torch.zeros(())):
        found = tracked(tracked_loss=ignoring)
        assert found.unlearning_error == 0
        (words,) = found.broken
        assert words.startswith("the loss does not depend on the model that loss_fn is given")


def test_a_linear_loss_is_named():
    def linear(model, batch):
        return model(batch[0]).mean()

    found = tracked(model=nn.Linear(5, 3).double(), loss_fn=linear, tracked_loss=linear)
    assert found.broken == ("sigma is 0 at every sample: this loss is linear in the weights",)


@pytest.mark.parametrize("at", [-1, 3, STEPS - 1])
def test_weights_loaded_from_outside_are_named(at):
    model, other = network(), copy.deepcopy(network())
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    optimizer = sgd(model)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=3)

    def load(step):
        if step == at:
            model.load_state_dict(other.state_dict())

    load(-1)
    loop(model, optimizer, tracker, after=load)
    found = tracker.result()
    assert found == tracker.result()
    (words,) = found.broken
    assert words.startswith("the weights changed outside the optimiser's steps (loaded? 1 times)")


def test_several_ranks_are_named(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert by_eye().broken == ("one of 4 ranks: sigma is that of this rank's part of each batch",)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    assert by_eye().broken == ()


# A rate alone: what the weights show


@pytest.mark.parametrize(
    ("make", "learning_rate"),
    [
        (lambda m: torch.optim.Adam(m.parameters(), lr=1e-3), 1e-3),
        (lambda m: sgd(m, momentum=0.9), ETA),
        (sgd, 0.5),
        (lambda m: sgd(m, weight_decay=1.0), ETA),
    ],
    ids=["Adam", "momentum", "another rate", "weight decay"],
)
def test_steps_that_are_not_the_gradient_times_the_rate_are_seen(make, learning_rate):
    (words,) = by_eye(make, learning_rate=learning_rate).broken
    assert "the gradient that was applied is" in words
    assert "clipping, another optimiser or rate, or another loss" in words


def test_in_float32_rounding_is_no_other_optimiser():
    model = network().float()
    data = [(x.float(), y) for x, y in batches()]
    assert by_eye(lambda m: sgd(m, lr=1e-6), learning_rate=1e-6, model=model, data=data).broken == ()


# What it leaves alone


@pytest.mark.parametrize(
    "more", [(), (nn.BatchNorm1d(8), nn.Dropout(0.5))], ids=["plain", "batch norm, dropout"]
)
def test_training_is_bit_for_bit_the_same_with_and_without_the_tracker(more):
    model = network(*more)
    other = copy.deepcopy(model)
    for own, watch in ((model, False), (other, True)):
        torch.manual_seed(5)
        optimizer = sgd(own, momentum=0.9)
        tracker = UnlearningTracker(own, loss_fn, optimizer=optimizer) if watch else None
        loop(own, optimizer, tracker)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_an_optimiser_outlives_its_tracker():
    model = network()
    optimizer = sgd(model)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer)
    loop(model, optimizer, tracker)
    steps = tracker.result().num_steps
    gone = weakref.ref(tracker)
    del tracker
    gc.collect()
    assert gone() is None  # nor does the optimiser keep its w_0
    loop(model, optimizer)
    assert steps == STEPS
    copy.deepcopy(optimizer).step()


def test_without_probes_only_what_is_free_is_looked_at():
    calls = []

    def counted(model, batch):
        calls.append(batch)
        return loss_fn(model, batch)

    model = network()
    optimizer = sgd(model, momentum=0.9)
    tracker = UnlearningTracker(model, counted, optimizer=optimizer, every=3, probe=False)
    loop(model, optimizer, tracker, clip=0.01)
    found = tracker.result()
    assert len(calls) == 3  # one graph a sample
    assert found.broken == ("momentum 0.9",)
    assert found.hvps == tracked(lambda m: sgd(m, momentum=0.9), clip=0.01).hvps


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_closure_takes_its_gradient_within_the_step(clip):
    model = network()
    optimizer = sgd(model)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=3)
    for batch in batches():
        tracker.step(batch)

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            return loss

        optimizer.step(closure)
    assert tracker.result() == tracked(clip=clip)


def test_wrapped_optimisers_are_unwrapped():
    model = network()
    optimizer = sgd(model)
    tracker = UnlearningTracker(model, loss_fn, optimizer=SimpleNamespace(optimizer=optimizer), every=3)
    loop(model, optimizer, tracker)
    assert tracker.result() == tracked()


# Its state


@pytest.mark.parametrize("known", [True, False], ids=["optimizer", "learning_rate"])
def test_a_training_resumes_from_the_state_of_its_tracker(known):
    data = list(batches())

    def start(model):
        optimizer = sgd(model, momentum=0.5)
        options = {"optimizer": optimizer} if known else {"learning_rate": ETA}
        return optimizer, UnlearningTracker(model, loss_fn, every=2, **options)

    model = network()
    optimizer, tracker = start(model)
    loop(model, optimizer, tracker, data=data)
    expected = tracker.result()
    assert expected.broken

    model = network()
    optimizer, tracker = start(model)
    loop(model, optimizer, tracker, data=data[:3])
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), tracker.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model = network()
    optimizer, tracker = start(model)
    tracker.load_state_dict(saved[2])
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    loop(model, optimizer, tracker, data=data[3:])
    assert tracker.result() == expected


def test_the_state_of_an_earlier_version_and_of_another_model():
    model = network()
    tracker = UnlearningTracker(model, loss_fn, learning_rate=ETA)
    loop(model, sgd(model), tracker)
    state = {key: tracker.state_dict()[key] for key in ("num_steps", "samples", "initial")}
    second = UnlearningTracker(model, loss_fn, learning_rate=ETA)
    second.load_state_dict(state)
    assert second.result() == tracker.result()
    with pytest.raises(InputError, match="`model` and `state` must hold the same parameters"):
        UnlearningTracker(nn.Linear(2, 2), loss_fn, learning_rate=ETA).load_state_dict(state)


# What is refused


def make_tracker(model=None, loss=loss_fn, **options):
    return UnlearningTracker(model or network(), loss, **({"learning_rate": ETA} | options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rtol": 0}, "rtol must be larger than 0"),
        ({"rtol": "1e-2"}, "rtol must be a number"),
        ({"max_hvps": 0}, "max_hvps must be at least 1"),
        ({"max_hvps": 2.5}, "max_hvps must be a whole number"),
        ({"max_basis": 2}, "max_basis must be at least 3"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": None}, "seed must be a whole number"),
        ({"start": "random"}, "unknown start 'random': expected one of gradient"),
        ({"every": True}, "every must be a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"learning_rate": None}, "pass `optimizer`"),
        ({"optimizer": sgd(network())}, "pass `optimizer`"),
        ({"learning_rate": None, "optimizer": "SGD"}, r"must be a torch\.optim\.Optimizer, got str"),
        ({"learning_rate": None, "optimizer": sgd(network())}, "holds none of the model's trainable"),
        ({"loss": "loss"}, "`loss_fn` must be callable, got 'loss'"),
        (
            {"loss": nn.CrossEntropyLoss()},
            r"CrossEntropyLoss, which takes outputs and labels: .*\(model, batch\)",
        ),
        ({"loss": cross_entropy}, r"cross_entropy, which takes outputs and labels: .*\(model, batch\)"),
        ({"loss": nn.CrossEntropyLoss}, "must be callable, got <class"),
        (
            {"loss": lambda model, x, y: 0},
            r"`loss_fn` takes \(model, x, y\): expected loss_fn\(model, batch\)",
        ),
        ({"model": snapshot(network())}, r"`model` must be a torch\.nn\.Module, got dict"),
        ({"hessian_batch": (torch.zeros(0, 5), torch.zeros(0))}, "the batch is empty"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, words):
    with pytest.raises(InputError, match=words) as caught:
        make_tracker(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "batch", [(torch.zeros(0, 5), torch.zeros(0)), [], {"x": torch.zeros(0, 2)}, torch.zeros(0)]
)
def test_an_empty_batch_is_named_at_every_step(batch):
    tracker = make_tracker(every=100)
    tracker.step(next(iter(batches())))
    with pytest.raises(InputError, match="the batch is empty"):
        tracker.step(batch)


def test_a_loss_that_takes_the_batch_apart_is_told_what_it_gets():
    with pytest.raises(InputError, match=r"loss_fn\(model, batch\) failed: .* here tuple") as caught:
        make_tracker(loss=lambda model, x: model(x).mean()).step(next(iter(batches())))
    assert isinstance(caught.value.__cause__, TypeError)


def test_parameters_frozen_or_unfrozen_are_named_at_the_next_step():
    model = network()
    model[2].weight.requires_grad_(False)
    tracker = make_tracker(model)
    first, second, *_ = batches()
    tracker.step(first)
    model[2].weight.requires_grad_(True)
    with pytest.raises(InputError, match=r"2\.weight was unfrozen.* Make a new tracker"):
        tracker.step(second)
    model[2].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    with pytest.raises(InputError, match=r"0\.bias was frozen"):
        tracker.step(second)


def test_freezing_for_an_evaluation_does_not_matter():
    model = network()
    optimizer = sgd(model)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=3)
    loop(model, optimizer, tracker)
    model.requires_grad_(False)
    assert tracker.result() == tracked()


def test_an_optimiser_that_takes_no_step_is_named():
    model = network()
    tracker = UnlearningTracker(model, loss_fn, optimizer=sgd(model))
    tracker.step(next(iter(batches())))
    with pytest.raises(InputError, match="`optimizer` has taken no step"):
        tracker.result()
