"""Recipes against torch.optim, and crops against slices."""

import copy

import pytest
import torch
from torch import nn

from unrolling import Objective, make_batch_order, make_generator, seeded, train
from unrolling.runs.recipes import RECIPES, Recipe, RecipeStepper, crop_and_flip
from unrolling.training import Stepper

OBJECTIVE = Objective("cross_entropy")
EPOCHS, STEPS = 3, 5


@pytest.fixture
def problem():
    with seeded(0, "problem"):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
        inputs, labels = torch.randn(40, 6, dtype=torch.float64), torch.randint(0, 3, (40,))
    return model, inputs, labels, make_batch_order(40, 8, EPOCHS, make_generator(0))


def stepper(recipe):
    return RecipeStepper(recipe, num_epochs=EPOCHS, steps_per_epoch=STEPS, seed=0)


def assert_same(first, second):
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recipe", [Recipe(momentum=0.9), Recipe(weight_decay=0.1), RECIPES["cosine"]])
def test_a_recipe_takes_the_steps_of_torch_optim(problem, recipe):
    model, inputs, labels, order = problem
    reference = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        reference.parameters(), lr=0.1, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    for number, step in enumerate(order, 1):
        optimizer.zero_grad()
        OBJECTIVE(reference, (inputs[list(step)], labels[list(step)])).backward()
        optimizer.step()
        if recipe.cosine and number % STEPS == 0:
            schedule.step()
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, stepper=stepper(recipe))
    assert_same(model, reference)


def test_the_plain_recipe_is_plain_sgd(problem):
    model, inputs, labels, order = problem
    plain = copy.deepcopy(model)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, stepper=stepper(RECIPES["plain"]))
    train(plain, inputs, labels, order, OBJECTIVE, learning_rate=0.1, stepper=Stepper())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_velocities_go_on_after_an_interruption_and_each_model_has_its_own(problem):
    model, inputs, labels, order = problem
    whole, recipe = copy.deepcopy(model), Recipe(momentum=0.9)
    train(whole, inputs, labels, order, OBJECTIVE, learning_rate=0.1, stepper=stepper(recipe))
    first, second = stepper(recipe), stepper(recipe)
    part = type(order)(order.steps[:7])
    train(model, inputs, labels, part, OBJECTIVE, learning_rate=0.1, stepper=first)
    other = copy.deepcopy(model)
    second.load_state([model, other], first.state([model, other]))
    assert second.state([other]) == [[]]
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, first_step=7, stepper=second)
    assert_same(model, whole)


def test_crops_are_windows_of_the_padded_image_or_of_its_mirror():
    images = torch.arange(1.0, 1 + 40 * 2 * 5 * 6).reshape(40, 2, 5, 6)
    found = crop_and_flip(images, make_generator(0))
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    places, mirrored = set(), 0
    for image, crop in zip(padded, found, strict=True):
        windows = {
            (down, right, flip): window
            for down in range(9)
            for right in range(9)
            for flip in (False, True)
            for window in [image[:, down : down + 5, right : right + 6]]
            for window in [window.flip(2) if flip else window]
        }
        matches = [key for key, window in windows.items() if torch.equal(window, crop)]
        assert matches
        places.add(matches[0][:2])
        mirrored += matches[0][2]
    assert len(places) > 20
    assert 10 < mirrored < 30


def test_augmentation_is_the_same_at_the_same_step_and_another_at_the_next():
    images = torch.randn(8, 1, 8, 8, generator=make_generator(1))

    def at(step):
        return crop_and_flip(images, make_generator(0, "augmentation", step))

    assert torch.equal(at(3), at(3))
    assert not torch.equal(at(3), at(4))


class Half(nn.Module):
    """Two heads, of which the loss uses one, and the other only in the third epoch."""

    def __init__(self):
        super().__init__()
        self.used, self.rarely, self.calls = nn.Linear(6, 3), nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += 1
        found = self.used(x)
        return found + self.rarely(x) if self.calls > 2 * STEPS else found


@pytest.mark.parametrize("recipe", [Recipe(momentum=0.9), Recipe(momentum=0.9, weight_decay=0.1)])
def test_parameters_that_a_step_does_not_use_are_not_decayed_and_keep_their_velocity(problem, recipe):
    _, inputs, labels, order = problem
    with seeded(1, "model"):
        model = Half().double()
    reference = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        reference.parameters(), lr=0.1, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    for step in order:
        optimizer.zero_grad()
        OBJECTIVE(reference, (inputs[list(step)], labels[list(step)])).backward()
        optimizer.step()
    with torch.no_grad():
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, stepper=stepper(recipe))
    assert_same(model, reference)


@pytest.mark.parametrize("recipe", [Recipe(momentum=0.9), Recipe(weight_decay=0.1)])
def test_sparse_gradients_take_the_steps_of_dense_ones(problem, recipe):
    _, _, labels, order = problem
    tokens = torch.randint(0, 9, (40, 5), generator=make_generator(0))
    models = []
    for sparse in (False, True):
        with seeded(1, "model"):
            model = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(20, 3)).double()
        train(model, tokens, labels, order, OBJECTIVE, learning_rate=0.1, stepper=stepper(recipe))
        models.append(model)
    assert_same(*models)
