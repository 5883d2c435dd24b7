"""forget_loss: one step and its undoing leave nothing, whatever network, mode, and batch it was."""

import copy
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from toy_transformers import TOKENS, toy_network
from transformers import BatchEncoding, GPT2Config, GPT2LMHeadModel

from unrolling import build_model, forget_loss, seeded, single_gradient_unlearn, snapshot, verification_error
from unrolling._checks import InputError

ETA = 0.1
cross_entropy = nn.functional.cross_entropy


def classify(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def classify_each(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def ask(model, batch):
    return model(**batch).loss


def images(dtype, size=6):
    return torch.randn(size, 1, 8, 8).to(dtype), torch.randint(3, (size,))


def vectors(dtype, size=8):
    return torch.randn(size, 5).to(dtype), torch.randint(3, (size,))


def resnet():
    return build_model("resnet18", 3, input_shape=(1, 8, 8), width=4)


def dropout_mlp():
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))


def plain_mlp():
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))


def gpt2(dropout=0.1):
    rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config = GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=8,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        **rates,
    )
    return GPT2LMHeadModel(config)


def sentences(_dtype=None):
    """Four of up to seven tokens, padded on the right: a mean over tokens is no mean over sentences."""
    tokens, lengths = torch.randint(1, 11, (4, 7)), torch.tensor([7, 3, 5, 2])
    mask = torch.arange(7) < lengths[:, None]
    return BatchEncoding(
        {"input_ids": tokens, "attention_mask": mask.long(), "labels": tokens.masked_fill(~mask, -100)}
    )


def reviews(_dtype=None):
    return {"input_ids": TOKENS, "attention_mask": (TOKENS > 0).long(), "labels": torch.tensor([0, 1, 1])}


CASES = {
    "resnet18 with batch norm": (resnet, images, classify),
    "MLP with dropout": (dropout_mlp, vectors, classify),
    "GPT-2, tied, dropout, mean over tokens": (gpt2, sentences, ask),
    "DistilBERT, dropout": (lambda: toy_network("distilbert"), reviews, ask),
    "LSTM with dropout between its layers": (lambda: Recurrent(), images, classify),
}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(8, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.cells(images[:, 0])[0][:, -1])


def make(name_or_case, dtype=torch.float64):
    build, data, loss_fn = CASES[name_or_case] if isinstance(name_or_case, str) else name_or_case
    with seeded(0, "a step"):
        return build().to(dtype).train(), data(dtype), loss_fn


def stepped(model, batch, loss_fn):
    """Weights before and after a step of torch.optim.SGD in training mode, and the random state before it."""
    model = copy.deepcopy(model).train()
    before = snapshot(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=ETA)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = torch.get_rng_state()
        loss_fn(model, batch).backward()
        optimizer.step()
    return before, snapshot(model), state


def undone(model, batch, loss_fn, before, after, **options):
    loss = forget_loss(model, loss_fn, batch, **options)
    return single_gradient_unlearn(after, before, loss, learning_rate=ETA)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", CASES)
def test_a_step_and_its_undoing_leave_nothing(name, dtype, tolerance):
    model, batch, loss_fn = make(name, dtype)
    before, after, state = stepped(model, batch, loss_fn)
    model.eval()  # as after an evaluation: the mode is that of the step
    state_dict = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    back = undone(model, batch, loss_fn, before, after, random_state=state)
    assert verification_error(back, before) < tolerance * verification_error(after, before)
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, state_dict[key]) for key, value in model.state_dict().items())


def test_in_evaluation_mode_the_undoing_of_batch_norm_undoes_nothing():
    """Why the mode of the step is the default."""
    model, batch, loss_fn = make("resnet18 with batch norm")
    before, after, _ = stepped(model, batch, loss_fn)
    back = undone(model, batch, loss_fn, before, after, training=False)
    assert verification_error(back, before) > 0.5 * verification_error(after, before)


def test_batch_norm_that_training_froze_keeps_its_mode():
    model, batch, loss_fn = make("resnet18 with batch norm")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = snapshot(model)
    grads = torch.autograd.grad(loss_fn(model, batch), list(model.parameters()))
    after = {name: w - ETA * g for (name, w), g in zip(before.items(), grads, strict=True)}
    back = undone(model, batch, loss_fn, before, after, training=None)
    assert verification_error(back, before) < 1e-12 * verification_error(after, before)


# Some examples of a batch


def one_at_a_time(model, batch, loss_fn, weights, chosen, before):
    """The weights that a step on the others alone leads to, each of them with its weight in the whole."""
    with_grad = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in with_grad]
    for i, n in enumerate(weights):
        if i in chosen:
            continue
        one = (
            {key: value[i : i + 1] for key, value in batch.items()}
            if hasattr(batch, "items")
            else tuple(value[i : i + 1] for value in batch)
        )
        for sum_, grad in zip(total, torch.autograd.grad(loss_fn(model, one), with_grad), strict=True):
            sum_ += float(n) / float(sum(weights)) * grad
    return {name: w - ETA * g for (name, w), g in zip(before.items(), total, strict=True)}


PARTS = {
    "mean over examples": ((plain_mlp, vectors, classify), None, [1] * 8, 1e-12),
    # transformers takes the loss of language models in float32
    "mean over tokens": ((lambda: gpt2(0.0), sentences, ask), "tokens", [6, 2, 4, 1], 1e-6),
}


@pytest.mark.parametrize("chosen", [[1], [0, 3]])
@pytest.mark.parametrize("name", PARTS)
def test_some_examples_leave_the_step_on_the_others(name, chosen):
    case, kind, counts, tolerance = PARTS[name]
    model, batch, loss_fn = make(case)
    before, after, _ = stepped(model, batch, loss_fn)
    expected = one_at_a_time(model, batch, loss_fn, counts, chosen, before)
    weights = batch["labels"][:, 1:] != -100 if kind else None
    back = undone(model, batch, loss_fn, before, after, examples=chosen, weights=weights)
    assert verification_error(back, expected) < tolerance * verification_error(after, before)
    if kind:
        wrong = undone(model, batch, loss_fn, before, after, examples=chosen)
        assert verification_error(wrong, expected) > 1e-2 * verification_error(after, before)


@pytest.mark.parametrize("weights", [None, [6, 2, 4, 1, 3, 3, 1, 5]])
def test_with_dropout_a_loss_for_each_example_has_the_masks_of_the_step(weights):
    model, batch, _ = make("MLP with dropout")
    chosen, counts = [2, 5], torch.tensor(weights or [1.0] * 8, dtype=torch.float64)

    def mean(model, batch):
        return (classify_each(model, batch) * counts).sum() / counts.sum()

    before, after, state = stepped(model, batch, mean)

    def on_the_others(model, batch):
        kept = torch.ones(8, dtype=torch.bool)
        kept[chosen] = False
        return (classify_each(model, batch) * counts)[kept].sum() / counts.sum()

    _, expected, _ = stepped(model, batch, on_the_others)
    options = {"examples": chosen, "weights": weights, "random_state": state}
    back = undone(model, batch, classify_each, before, after, **options)
    assert verification_error(back, expected) < 1e-12 * verification_error(after, before)


def test_a_loss_for_each_example_of_the_whole_batch_is_their_mean():
    model, batch, loss_fn = make((plain_mlp, vectors, classify))
    params, weights = snapshot(model), torch.tensor([3.0, 1, 1, 0, 2, 5, 1, 1], dtype=torch.float64)
    found = forget_loss(model, classify_each, batch)(params)
    torch.testing.assert_close(found, loss_fn(model, batch).detach(), rtol=1e-14, atol=0)
    weighed = forget_loss(model, classify_each, batch, weights=weights)(params)
    expected = (weights @ classify_each(model, batch) / 14).detach()
    torch.testing.assert_close(weighed, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "examples",
    [
        [1, 4],
        (4, 1),
        {1, 4},
        range(1, 5, 3),
        np.array([1, 4]),
        torch.tensor([1, 4]),
        [np.int64(1), torch.tensor(4)],
        [False, True, False, False, True, False, False, False],
        np.arange(8) % 3 == 1,
        torch.arange(8) % 3 == 1,
    ],
    ids=repr,
)
def test_examples_are_any_integers_a_person_has(examples):
    model, batch, loss_fn = make((plain_mlp, vectors, classify))
    if not isinstance(examples, list | tuple | set | range):
        examples = examples[: len(batch[1])]
    rows = [1, 4, 7] if getattr(examples, "dtype", None) in (torch.bool, np.dtype(bool)) else [1, 4]
    expected = len(rows) / 8 * loss_fn(model, (batch[0][rows], batch[1][rows])).detach()
    found = forget_loss(model, loss_fn, batch, examples=examples)(snapshot(model))
    assert float(found) == pytest.approx(float(expected), rel=1e-14)


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "structure",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: Pair(x, y),
        lambda x, y: {"x": x, "y": y, "name": "a batch", "scale": torch.tensor(1.0), "none": None},
        lambda x, y: UserDict(x=x, y=y),
        lambda x, y: {"inner": (x, {"y": y.numpy()}), "names": [f"text {i}" for i in range(len(y))]},
    ],
)
def test_batches_have_any_structure(structure):
    model, (x, y), _ = make((plain_mlp, vectors, classify))
    seen = []

    def loss_fn(model, batch):
        seen.append(batch)
        if isinstance(batch, dict) and "inner" in batch:
            assert len(batch["names"]) == len(batch["inner"][0])
            return classify(model, (batch["inner"][0], torch.as_tensor(batch["inner"][1]["y"])))
        return classify(model, (batch["x"], batch["y"]) if hasattr(batch, "keys") else tuple(batch))

    whole = structure(x, y)
    found = forget_loss(model, loss_fn, whole, examples=[6, 2])(snapshot(model))
    assert float(found) == pytest.approx(
        float(classify(model, (x[[6, 2]], y[[6, 2]])).detach() / 4), rel=1e-14
    )
    assert type(seen[0]) is type(whole)


def test_a_batch_may_be_one_tensor():
    model = nn.Linear(5, 1).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    found = forget_loss(model, lambda m, x: m(x).square().mean(), x, examples=3)(snapshot(model))
    assert float(found) == pytest.approx(float(model(x[3:]).detach().square() / 4))


def test_all_examples_are_the_whole_batch_also_with_batch_norm():
    model, batch, loss_fn = make("resnet18 with batch norm")
    params = snapshot(model)
    every = forget_loss(model, loss_fn, batch, examples=range(6))(params)
    assert float(every) == float(forget_loss(model, loss_fn, batch)(params))


# What is refused


def test_batch_norm_mixes_the_examples():
    model, batch, loss_fn = make("resnet18 with batch norm")
    with pytest.raises(InputError, match=r"batch norm \(.*\) mixes the examples"):
        forget_loss(model, loss_fn, batch, examples=[0])
    forget_loss(model, loss_fn, batch, examples=[0], training=False)(snapshot(model))  # nothing is mixed


@pytest.mark.parametrize("name", [name for name in CASES if "dropout" in name])
def test_dropout_needs_the_random_state_of_the_step(name):
    model, batch, loss_fn = make(name)
    loss = forget_loss(model, loss_fn, batch)
    with pytest.raises(InputError, match="`random_state` does not say which"):
        loss(snapshot(model))
    forget_loss(model, loss_fn, batch, training=False)(snapshot(model))  # draws nothing


def test_with_dropout_a_mean_does_not_tell_the_masks_of_some_examples():
    model, batch, loss_fn = make("MLP with dropout")
    loss = forget_loss(model, loss_fn, batch, examples=[0], random_state=torch.get_rng_state())
    with pytest.raises(InputError, match="one loss for each example"):
        loss(snapshot(model))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"examples": []}, "`examples` is empty"),
        ({"examples": [False] * 8}, "a mask that chooses nothing"),
        ({"examples": [True, False]}, "a mask of 2 booleans, but there are 8"),
        ({"examples": [2, 2]}, "twice"),
        ({"examples": [8]}, "`examples` names 8, .* expected 0 to 7"),
        ({"examples": [-1]}, "`examples` names -1"),
        ({"examples": [0.5]}, "whole numbers"),
        ({"examples": object()}, "`examples` must be whole numbers"),
        ({"examples": [0], "weights": [1.0]}, "one entry for each of the 8 examples"),
        ({"examples": [0], "weights": [-1.0] * 8}, "at least 0"),
        ({"examples": [0], "weights": "tokens"}, "`weights` must be numbers"),
        ({"random_state": 7}, "torch.get_rng_state"),
        ({"random_state": torch.zeros(3)}, "torch.get_rng_state"),
    ],
)
def test_bad_arguments_are_named(options, words):
    model, batch, loss_fn = make((plain_mlp, vectors, classify))
    with pytest.raises(InputError, match=words) as caught:
        forget_loss(model, loss_fn, batch, **options)
    assert "\n" not in str(caught.value)


def test_batches_and_losses_that_do_not_fit_are_named():
    model, (x, y), _ = make((plain_mlp, vectors, classify))
    with pytest.raises(InputError, match=r"first dimensions \[7, 8\]"):
        forget_loss(model, classify, (x, y[:7]), examples=[0])
    with pytest.raises(InputError, match="the batch is empty"):
        forget_loss(model, classify, (x[:0], y[:0]))
    with pytest.raises(InputError, match="holds no tensors"):
        forget_loss(model, classify, object(), examples=[0])
    with pytest.raises(InputError, match=r"takes outputs and labels: expected loss_fn\(model, batch\)"):
        forget_loss(model, nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(InputError, match=r"shape \(8,\), got \(8, 3\)"):
        forget_loss(model, lambda m, batch: m(batch[0]), (x, y))(snapshot(model))
    with pytest.raises(InputError, match=r"must return a tensor, got float\. "):
        forget_loss(model, lambda m, batch: 0.5, (x, y))(snapshot(model))
    with pytest.raises(InputError, match=r"`model` must be a torch\.nn\.Module, got dict"):
        forget_loss(snapshot(model), classify, (x, y))
