r"""Carry out one run: pre-train M, unroll M and M' side by side, measure, unlearn (sections 8.1 and 8.3)."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from unrolling._checks import InputError
from unrolling.data import Dataset
from unrolling.runs.checkpoint import Checkpoint
from unrolling.runs.config import RunConfig
from unrolling.runs.encoder import Encoder
from unrolling.runs.precision import float32_products
from unrolling.runs.pretraining import pretrain, train_alone, trained_alone
from unrolling.runs.setup import Setup, set_up
from unrolling.runs.shadow import privacy_risk, shadow_run
from unrolling.runs.stopping import Stop
from unrolling.runs.trainer import Keeping, Progress, State, Trainer
from unrolling.runs.unrolling import Unrolling
from unrolling.surroundings import threads
from unrolling.training import DivergedError

_OF_ONE_MODEL = {"step", "velocities", "model"}
#: What a run's state has at least, by its phase.
STATE_PARTS = {
    "shadow": {"shadow"},
    "pretraining": _OF_ONE_MODEL,
    "alone": _OF_ONE_MODEL,
    "unrolling": _OF_ONE_MODEL | {"retrained", "initial_model", "tracker", "unlearning", "rows"},
}


def execute(
    config: RunConfig,
    dataset: Dataset,
    *,
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
    encoder: Encoder | None = None,
    graphs: bool = False,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Return the result of one run: a trace over t, every sample of sigma, and what was measured at the end.

    Args:
        config: The run.
        dataset: What :func:`load_data` returned for it.
        device: Where to train.
        checkpoint: Resume from this file if it holds a state, and save to it on the way. The numbers are the
            same with and without it, interrupted or not.
        checkpoint_seconds: Least time between two saves.
        progress: Called with (steps done, steps in all), those of a shadow model first.
        encoder: What ``distilbert-small`` starts from, if the run says so.
        graphs: Take steps of plain SGD in CUDA graphs, see :class:`~unrolling.runs.cuda_graph.GraphStepper`.
        stop: Asked after every step; a run that has a checkpoint and is to stop saves itself and ends.

    Raises:
        Stopped: If the run ended because of ``stop``. Called again it goes on.
        InputError: If the run asks for tf32 products on a device that has none.
        DivergedError: As soon as weights or derivatives are found that are not finite: once an epoch, and
            before they are measured or saved.
    """
    device = torch.device(device)
    if config.products == "tf32" and device.type != "cuda":
        raise InputError(f"products 'tf32' need a CUDA device, got {device}. Use products 'ieee'.")
    products = float32_products(config.products) if device.type == "cuda" else nullcontext()
    # Threads sum in another order with some kernels and not with others. To use more cores, run more at once.
    alone = threads(1) if device.type == "cpu" else nullcontext()
    with products, alone:
        setup = set_up(config, dataset, device=device, encoder=encoder)
        state = _stored_state(checkpoint)
        trainer = Trainer(setup, Keeping(checkpoint, checkpoint_seconds, progress, stop), graphs)
        score = None
        if config.shadow_size:
            shadow = _train_shadow(trainer, state)
            score = partial(_privacy, setup, shadow.setup)
            kept = {"whole": lambda own: own | {"shadow": trained_alone(shadow)}}
            trainer.keeping = replace(trainer.keeping, before=shadow.setup.num_steps, **kept)
        if state and state["phase"] == "shadow":
            state = None
        if state is None or state["phase"] == "pretraining":
            pretrain(trainer, state)
            state = None
        return Unrolling(trainer, state).run(score)


def _train_shadow(trainer: Trainer, state: State | None) -> Trainer:
    """Train the shadow model of a run, from the state that was saved of it on."""
    settings, more = shadow_run(trainer.setup.config)
    keeping = replace(
        trainer.keeping,
        after=trainer.setup.num_steps,
        whole=lambda own: {"phase": "shadow", "shadow": own},
    )
    shadow = Trainer(set_up(settings, more, device=trainer.setup.inputs.device), keeping, trainer.graphs)
    try:
        train_alone(shadow, state.get("shadow") if state else None)
    except DivergedError as error:
        raise DivergedError(f"the shadow model's {error}") from error
    return shadow


def _privacy(setup: Setup, shadow: Setup, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Score what is forgotten under every model of the run."""
    index = torch.tensor(setup.protocol.forget, device=setup.inputs.device)
    return privacy_risk(
        models,
        shadow=shadow.model,
        shadow_members=(shadow.inputs, shadow.labels),
        members=(setup.inputs, setup.labels),
        test_data=setup.test_data,
        forgotten=(setup.inputs[index], setup.labels[index]),
        batch_size=setup.config.batch_size,
    )


def _stored_state(checkpoint: Checkpoint | None) -> State | None:
    """Return where the run stood when it was saved, or None if it starts."""
    state = checkpoint.load() if checkpoint else None
    if checkpoint is None or state is None or _is_whole(state):
        return state
    checkpoint.set_aside("is not of this version's form")
    return None


def _is_whole(state: State) -> bool:
    parts = STATE_PARTS.get(state.get("phase", ""))
    return (
        parts is not None and parts <= state.keys() and ("shadow" not in state or _is_whole(state["shadow"]))
    )
