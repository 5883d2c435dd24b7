"""Pre-training: M_0 to M_N in N epochs; and the training of one model by itself, from beginning to end."""

import torch
from torch import nn

from unrolling.batches import BatchOrder
from unrolling.parameters import training_mode
from unrolling.runs.config import RunConfig
from unrolling.runs.recipes import RECIPES, Recipe
from unrolling.runs.trainer import State, Trainer
from unrolling.training import copy_for_retraining

#: The momentum of the released scripts that have one.
MOMENTUM = 0.9


def pretrain(trainer: Trainer, state: State | None = None) -> None:
    """Take M_0 to M_N in N epochs; and M' on its own, if the protocol has it retrained.

    Args:
        trainer: Of a run whose M is M_0. It gets M'.
        state: Where it was stopped; None: it starts.
    """
    setup = trainer.setup
    first, second = setup.protocol.pretraining, setup.protocol.pretraining_retrained
    if second is not None:
        trainer.retrained = copy_for_retraining(setup.model)
    if state is None or "retrained" not in state:
        _advance(trainer, setup.model, first, state, offset=0)
        state = None
    else:
        setup.model.load_state_dict(state["model"])
        state = state | {"model": state["retrained"]}
    if trainer.retrained is not None and second is not None:
        finished = {name: value.clone() for name, value in setup.model.state_dict().items()}
        _advance(
            trainer,
            trainer.retrained,
            second,
            state,
            states=lambda own: {"model": finished, "retrained": own},
            offset=len(first),
        )
    if "test_statistics" in setup.config.conventions:
        _pass_test_set_through(trainer)


def _advance(
    trainer: Trainer, model: nn.Module, order: BatchOrder, state: State | None, **options: object
) -> None:
    config = trainer.setup.config
    steps_per_epoch = len(order) // max(1, config.pretrain_epochs)
    stepper = trainer.stepper(RECIPES[config.recipe], config.pretrain_epochs, steps_per_epoch)
    trainer.advance(model, order, stepper, state, phase="pretraining", **options)


def _pass_test_set_through(trainer: Trainer) -> None:
    model, inputs = trainer.setup.model, trainer.setup.test_data[0]
    with torch.no_grad(), training_mode(model, True):
        for part in inputs.split(trainer.setup.config.batch_size):
            model(part)


def unrolled_recipe(config: RunConfig) -> Recipe:
    """Return the recipe of the t steps: plain SGD, but for released conventions."""
    momentum = "momentum" in config.conventions
    return Recipe(
        momentum=MOMENTUM if momentum else 0,
        weight_decay=5e-4 if momentum else 0,
        frozen_statistics="frozen_statistics" in config.conventions,
    )


def train_alone(trainer: Trainer, state: State | None = None) -> nn.Module:
    """Return M after all of its steps, trained without an M' and without a measurement.

    Args:
        trainer: Of a run whose M is M_0.
        state: Where it was stopped; None: it starts.
    """
    setup = trainer.setup
    if state is None or state["phase"] == "pretraining":
        pretrain(trainer, state)
        state = None
    stepper = trainer.stepper(unrolled_recipe(setup.config), setup.config.epochs, setup.steps_per_epoch)
    before = len(setup.protocol.pretraining)
    trainer.advance(setup.model, setup.protocol.order, stepper, state, phase="alone", offset=before)
    return setup.model


def trained_alone(trainer: Trainer) -> State:
    """Return the state from which :func:`train_alone` has nothing left to do."""
    done = {"phase": "alone", "step": len(trainer.setup.protocol.order)}
    return done | {"model": trainer.setup.model.state_dict(), "velocities": [[]]}
