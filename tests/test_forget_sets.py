"""Whatever a person names examples by: each function gives what it gives for a list, or says why not."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from unrolling import BatchOrder, make_generator, seeded, snapshot, train
from unrolling._checks import InputError, check_examples
from unrolling.losses import cross_entropy
from unrolling.methods import second_order_unlearn
from unrolling.methods.others import certified_removal_unlearn, linear_propagation_unlearn
from unrolling.methods.others.amnesiac import AmnesiacLog, ReleasedAmnesiacLog
from unrolling.methods.others.certified_removal import RemovalSettings, train_certified
from unrolling.methods.others.deltagrad import deltagrad_unlearn
from unrolling.methods.others.ntk_scrubbing import ntk_scrub_unlearn
from unrolling.methods.others.sisa import SisaRecipe, assign_shards, sisa_train, sisa_unlearn
from unrolling.methods.problem import Problem, as_model
from unrolling.metrics.case import Case, Run
from unrolling.training import copy_for_retraining

N, ETA = 12, 0.1
GENERATOR = make_generator(0, "forget sets")
INPUTS = torch.randn(N, 3, dtype=torch.float64, generator=GENERATOR)
INPUTS /= INPUTS.norm(dim=1).max()
LABELS = torch.arange(N) % 2
ORDER = BatchOrder(((2, 5, 7), (0, 1, 3), (4, 6, 8), (9, 10, 11)) * 2)
CHOSEN = [2, 5, 7]


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def network():
    with seeded(0, "forget sets"):
        return nn.Linear(3, 2).double()


def problem(forget=(2,)):
    return Problem(network(), loss_fn, 0.0, INPUTS, LABELS, 2, ORDER, ETA, forget, 0)


TRAINED = problem()


def by_training(forget):
    model = network()
    retrained = copy_for_retraining(model)
    train(model, INPUTS, LABELS, ORDER, loss_fn, learning_rate=ETA, retrained=retrained, forget=forget)
    return snapshot(retrained)


def by_sisa(forget):
    recipe = SisaRecipe(loss_fn, learning_rate=ETA, batch_size=3, num_epochs=1, seed=0)
    ensemble = sisa_train(network(), INPUTS, LABELS, assign_shards(N, 1, 2, seed=0), recipe)
    return sisa_unlearn(ensemble, INPUTS, LABELS, forget)


def by_log(log):
    model = network()
    log = log(model)
    train(model, INPUTS, LABELS, ORDER, loss_fn, learning_rate=ETA, observers=[log])
    return log.updates if isinstance(log, AmnesiacLog) else log.gradients


def by_certified_removal(forget):
    settings = RemovalSettings(l2=0.1, noise_scale=1.0, epsilon=1.0, delta=1e-4)
    targets = 2 * LABELS.double() - 1
    model = train_certified(INPUTS, targets, settings, generator=make_generator(0))
    return certified_removal_unlearn(model, INPUTS, targets, forget, generator=make_generator(1))


def by_deltagrad(forget):
    return deltagrad_unlearn(
        TRAINED.final_params, TRAINED.log.weights, TRAINED.mean_loss, ORDER, forget, learning_rate=ETA
    )


def by_ntk(forget):
    targets = nn.functional.one_hot(LABELS, 2)
    start, end = TRAINED.initial_params, TRAINED.final_params
    return ntk_scrub_unlearn(end, start, network(), INPUTS, targets, forget, weight_decay=0.1)


def by_case(forget):
    run = Run(*3 * [as_model(network())])
    case = Case((run,), INPUTS, LABELS, forget, INPUTS, LABELS, noise=1.0, delta=0.1, learning_rate=ETA)
    return {"forget": torch.tensor(sorted(case.forget)), "inputs": case.data("forgotten")[0]}


def by_problem(forget):
    given = problem(forget)
    return numbers(given.forget) | snapshot(given.retrained)


def numbers(found):
    return {"found": torch.tensor(sorted(found))}


LOSSES = [TRAINED.mean_loss(batch) for batch in ORDER]
#: Function -> how it is called with a forget set, and how many there are to choose from, if it knows.
FUNCTIONS = {
    "check_examples": (lambda f: numbers(check_examples("forget", f, total=N)), N),
    "train": (by_training, N),
    "BatchOrder.without": (lambda f: numbers(sum(ORDER.without(f), ())), None),
    "AmnesiacLog": (lambda f: by_log(lambda m: AmnesiacLog(m, ORDER, f)), None),
    "ReleasedAmnesiacLog": (lambda f: by_log(lambda m: ReleasedAmnesiacLog(m, loss_fn, ORDER, f)), None),
    "sisa_unlearn": (by_sisa, N),
    "certified_removal": (by_certified_removal, N),
    "deltagrad_unlearn": (by_deltagrad, None),
    "ntk_scrub_unlearn": (by_ntk, N),
    "Problem": (by_problem, N),
    "Case": (by_case, N),
    "second_order_unlearn": (
        lambda f: second_order_unlearn(
            TRAINED.final_params, TRAINED.initial_params, LOSSES, f, learning_rate=ETA
        ),
        len(ORDER),
    ),
    "linear_propagation_unlearn": (
        lambda f: linear_propagation_unlearn(
            TRAINED.final_params, zip(TRAINED.log.weights, LOSSES, strict=True), f, learning_rate=ETA
        ),
        None,
    ),
}
FORMS = {
    "tuple": tuple,
    "reversed": lambda f: f[::-1],
    "set": set,
    "frozenset": frozenset,
    "keys": dict.fromkeys,
    "generator": lambda f: (i for i in f),
    "numpy": np.array,
    "numpy int8": lambda f: np.array(f, dtype=np.int8),
    "numpy uint64": lambda f: np.array(f, dtype=np.uint64),
    "numpy objects": lambda f: np.array(f, dtype=object),
    "numpy scalars": lambda f: [np.int32(i) for i in f],
    "tensor": torch.tensor,
    "tensor int16": lambda f: torch.tensor(f, dtype=torch.int16),
    "tensor uint8": lambda f: torch.tensor(f, dtype=torch.uint8),
    "tensors of no dimension": lambda f: [torch.tensor(i) for i in f],
    "set of tensors": lambda f: {torch.tensor(i) for i in f},
    "series": lambda f: pd.Series(f, index=[7, 8, 9]),
    "index": pd.Index,
}
FORMS["keys"] = lambda f: dict.fromkeys(f).keys()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_form_of_numbers_gives_what_a_list_gives(function):
    call, total = FUNCTIONS[function]
    expected = dict(call(CHOSEN))
    for name, form in FORMS.items():
        torch.testing.assert_close(
            dict(call(form(CHOSEN))), expected, msg=lambda text, n=name: f"{n}: {text}"
        )
    torch.testing.assert_close(dict(call(range(2, 8, 3))), dict(call([2, 5])))
    for one in (2, np.int64(2), torch.tensor(2), np.array(2)):
        torch.testing.assert_close(dict(call(one)), dict(call([2])))
    for mask in (list, np.array, torch.tensor, pd.Series):
        chosen = mask([i in CHOSEN for i in range(total or N)])
        if total is None:
            with pytest.raises(InputError, match=r"is a mask of 12 booleans; expected numbers"):
                call(chosen)
        else:
            torch.testing.assert_close(dict(call(chosen)), expected)


BAD = {
    "negative": ([2, -1], "names -1: numbers count from 0"),
    "repeated": ([2, 5, 2], "names 2 twice"),
    "repeated in an array": (np.array([5, 5]), "names 5 twice"),
    "empty list": ([], "is empty"),
    "empty array": (np.array([]), "is empty"),
    "empty tensor": (torch.tensor([], dtype=torch.int64), "is empty"),
    "empty range": (range(0), "is empty"),
    "none": (None, r"whole numbers .* got None \(NoneType\)"),
    "float": (2.0, r"whole numbers .* got 2.0 in it \(float\)"),
    "floats": ([2.0, 5.0], r"got 2.0 in it \(float\)"),
    "float array": (np.array([2.0]), r"got 2.0 in it \(float\)"),
    "float tensor": (torch.tensor([2.0]), r"got 2.0 in it \(float\)"),
    "nan": ([float("nan")], r"got nan in it \(float\)"),
    "complex": (torch.tensor([2 + 0j]), r"\(complex\)"),
    "text": ("25", r"got '25' \(str\)"),
    "texts": (["2", "5"], r"got '2' in it \(str\)"),
    "bytes": (b"25", r"got b'25' \(bytes\)"),
    "dict": ({2: 5}, r"\(dict\)"),
    "object": (object(), r"\(object\)"),
    "columns": (torch.tensor([[2], [5]]), r"got \[2\] in it \(list\).*flatten\(\) of nonzero\(\)"),
    "torch.where": (torch.where(torch.arange(12) == 2), r"Take \[0\] of torch.where"),
    "numbers and booleans": ([2, True], r"got True in it \(bool\)"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_bad_set_is_refused_in_one_line(function):
    call, total = FUNCTIONS[function]
    bad = dict(BAD)
    if total is not None:
        bad["out of range"] = ([2, total], f"names {total}, but there are {total}")
        bad["mask of another length"] = (
            [True] * (total - 1),
            f"mask of {total - 1} booleans, but there are {total}",
        )
        bad["mask of nothing"] = (np.zeros(total, dtype=bool), "chooses nothing")
    if function in ("BatchOrder.without", "deltagrad_unlearn"):
        bad["out of range"] = ([2, 99], "example 99 is at no step of this order")
    if function in (
        "train",
        "deltagrad_unlearn",
        "certified_removal",
        "ntk_scrub_unlearn",
        "Problem",
    ):
        bad["everything"] = (range(N), "holds every example")
    if function == "Case":
        bad["everything"] = (range(N), "12 of 12 examples")
    if function == "sisa_unlearn":
        bad["everything"] = (range(N), "shard 0 has no examples left")
    if function == "train":
        del bad["none"]  # the default: there is no M'
    for name, (forget, words) in bad.items():
        with pytest.raises(InputError, match=words) as raised:
            call(forget)
        assert "\n" not in str(raised.value), name


def test_batches_of_an_order_come_in_any_form():
    assert BatchOrder([[0, 1], np.array([2]), torch.tensor([3, 4])]).steps == ((0, 1), (2,), (3, 4))
    for name, form in FORMS.items():
        if name in ("reversed", "set of tensors"):
            continue  # the batch is these examples in this order
        assert ORDER.steps_of_batch(form(CHOSEN)) == (0, 4)
        assert len(ORDER.without_batch(form(CHOSEN))) == 6
    for one in (2, np.int64(2), torch.tensor(2)):
        assert ORDER.without_example(one) == ORDER.without([2])
    with pytest.raises(InputError, match="`batch` is empty"):
        ORDER.steps_of_batch([])
    with pytest.raises(InputError, match="all of them and in its order"):
        ORDER.without_batch([2, 5])
    assert BatchOrder(()).without([3]).steps == ()


def test_a_problem_takes_batches_in_any_form():
    given = problem([2, 5])
    params = given.initial_params
    for form in (list, np.array, torch.tensor):
        batch = form(CHOSEN)
        assert given.split(batch) == ((7,), (2, 5))
        assert given.mean_loss(batch) is given.mean_loss(CHOSEN)
        for part in (given.share, given.removed):
            assert float(part(batch)(params)) == float(part(CHOSEN)(params))
