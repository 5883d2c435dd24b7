r"""A shadow model, and the privacy risk scores that it gives the models of a run (sections 4.3 and 8.4).

The shadow model is trained as M was, by the same trainer with the same settings, on other examples: its
outputs teach what those of members and of non-members look like. Every second test example is a non-member
for the shadow model; the others stay unseen by the attack, and tell how much membership the scores of M show.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolling.data import Dataset
from unrolling.data.dataset import content_fingerprint
from unrolling.metrics.privacy_risk import privacy_risk_score, privacy_risk_score_released
from unrolling.metrics.roc import roc_curve
from unrolling.parameters import training_mode
from unrolling.runs.config import RunConfig
from unrolling.runs.inputs import load_images
from unrolling.seeding import make_generator, stream_seed
from unrolling.trackers import accuracy
from unrolling.training import Batch

#: The scores of a model, and how they are made. The first is the text's, the last that of the released code.
SCORES: dict[str, str] = {
    "score": "probabilities, evaluation mode, common bins",
    "training_mode": "probabilities, training mode, common bins",
    "released_bins": "probabilities, evaluation mode, the released bins",
    "released_logits": "logits, evaluation mode, the released bins",
    "released": "logits, training mode, the released bins",
}


def shadow_run(config: RunConfig) -> tuple[RunConfig, Dataset]:
    """Return the settings of a run's shadow model, and its data: ``shadow_size`` examples the run leaves out.

    It is trained like M, except that it has a seed of its own, so it starts from other weights.
    """
    data = load_images(config.dataset)
    num_train = config.train_size or len(data.train_labels)
    inputs, labels = data.more_training_data(num_train, config.shadow_size, make_generator(0, "subset"))
    alone = {"seed": stream_seed(config.seed, "shadow"), "shadow_size": 0, "pretraining": "shared"}
    nothing_forgotten = {"forget_batch": 0, "forget_count": 1, "forget_size": 0}
    settings = replace(config, **alone, **nothing_forgotten)
    own = f"{len(labels):,} training examples that the run leaves out"
    return settings, replace(
        data,
        train_inputs=inputs,
        train_labels=labels,
        fingerprint=content_fingerprint(data.fingerprint, "shadow", str(num_train), str(len(labels))),
        description=f"{data.description}; {own}",
    )


def privacy_risk(
    models: Mapping[str, nn.Module],
    *,
    shadow: nn.Module,
    shadow_members: Batch,
    members: Batch,
    test_data: Batch,
    forgotten: Batch,
    batch_size: int,
) -> dict[str, dict[str, Any]]:
    """Return the mean privacy risk score of what was forgotten under each model, in several readings.

    The readings are :data:`SCORES`. Logits cannot be given the common bins: their modified entropy may be
    negative, and those bins are equally wide in its logarithm. So logits come with the released bins.

    Args:
        models: By name, M as ``"trained"`` among them; only read.
        shadow: The shadow model.
        shadow_members: Inputs and labels that it was trained on.
        members: Inputs and labels that M was trained on.
        test_data: Inputs and labels that neither saw.
        forgotten: Inputs and labels to score.
        batch_size: Examples that pass together through a model in training mode.

    Returns:
        For each model its mean scores over the forgotten examples, leaving out those that have none (None if
        all have none), ``missing``, the share that has no released score, and ``accuracy`` on the test data.
        Under ``"signal"``, how much membership the scores of M show: their mean over all ``members`` and over
        the unseen ``nonmembers``, the area under the ROC curve between the two (``auc``; ``auc_released``
        from the released score, those that have one), and M's ``accuracy`` on what it was trained on.
    """
    calibration, unseen = ([part[start::2] for part in test_data] for start in (0, 1))
    known = {
        training: [_logits(shadow, data, batch_size, training) for data in (shadow_members, calibration)]
        for training in (False, True)
    }

    def scores(model: nn.Module, data: Batch) -> dict[str, Tensor]:
        evaluated, trained = (_logits(model, data, batch_size, training) for training in (False, True))
        return {
            "score": privacy_risk_score(*map(_softmax, (*known[False], evaluated))),
            "training_mode": privacy_risk_score(*map(_softmax, (*known[True], trained))),
            "released_bins": privacy_risk_score_released(*map(_softmax, (*known[False], evaluated))),
            "released_logits": privacy_risk_score_released(*known[False], evaluated),
            "released": privacy_risk_score_released(*known[True], trained),
        }

    result: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        found = scores(model, forgotten)
        result[name] = {
            **{reading: _mean(values) for reading, values in found.items()},
            "missing": float(found["released"].isnan().double().mean()),
            "accuracy": accuracy(model, *test_data),
        }
    seen, new = (scores(models["trained"], data) for data in (members, unseen))
    result["signal"] = {
        "members": _mean(seen["score"]),
        "nonmembers": _mean(new["score"]),
        "auc": roc_curve(seen["score"], new["score"]).auc,
        "auc_released": _auc(seen["released"], new["released"]),
        "accuracy": accuracy(models["trained"], *members),
    }
    return result


def _logits(model: nn.Module, data: Batch, batch_size: int, training: bool) -> Batch:
    """Return the model's outputs and the labels; the model is left as it was."""
    inputs, labels = data
    # In training mode the outputs depend on what passes together, and batch norm needs more than one example:
    # parts of equal size, of at most batch_size. In evaluation mode they do not.
    parts = inputs.tensor_split(math.ceil(len(inputs) / (batch_size if training else 500)))
    with torch.no_grad(), training_mode(copy.deepcopy(model), training) as scored:
        return torch.cat([scored(part) for part in parts]), labels


def _softmax(data: Batch) -> Batch:
    return data[0].double().softmax(dim=1), data[1]


def _present(scores: Tensor) -> Tensor:
    return scores[~scores.isnan()]


def _mean(scores: Tensor) -> float | None:
    present = _present(scores)
    return float(present.mean()) if len(present) else None


def _auc(members: Tensor, nonmembers: Tensor) -> float | None:
    both = _present(members), _present(nonmembers)
    return roc_curve(*both).auc if all(map(len, both)) else None
