"""Executable companion of *Unrolling SGD: Understanding Factors Influencing Machine Unlearning*.

The names below are what most users need, grouped by the paper's sections. Other losses are in
``unrolling.losses``, unlearning methods in ``unrolling.methods`` and ``unrolling.methods.others``, and what
judges them in ``unrolling.metrics``.
"""

# Data and models (section 7)
from unrolling.data import Dataset, load_dataset
from unrolling.models import build_model

# The order of the batches (section 4.1)
from unrolling.batches import BatchOrder, make_batch_order
from unrolling.seeding import make_generator, seeded

# Plain SGD (section 2)
from unrolling.parameters import snapshot
from unrolling.training import sgd_step, train
from unrolling.trackers import accuracy

# Training losses (Eq. 1, section 6)
from unrolling.losses import Objective, cross_entropy, sd_loss, sd_loss_released

# Curvature (section 5.2)
from unrolling.model_loss import batch_loss
from unrolling.curvature import SpectralNorm, hvp, top_singular_value

# Unrolling SGD (section 5.1)
from unrolling.expansion import Expansion, expand_sgd

# The unlearning error e, at every step of a training (section 5.3)
from unrolling.trackers import UnlearningEstimate, UnlearningTracker
from unrolling.unlearning_error import (
    targeted_unlearning_error,
    unlearning_error,
    unlearning_error_corrected,
)

# Unlearning, and the verification error v (sections 3.2, 5.1 and 8.3)
from unrolling.forgetting import forget_loss
from unrolling.methods import Unlearned, single_gradient_unlearn
from unrolling.unlearning_error import verification_error
from unrolling.loading import load

# Everything else, as ``unrolling.metrics.klom``
from unrolling import losses as losses
from unrolling import methods as methods
from unrolling import metrics as metrics

__version__ = "0.1.0"

__all__ = [
    # Data and models (section 7)
    "Dataset",
    "load_dataset",
    "build_model",
    # The order of the batches (section 4.1)
    "BatchOrder",
    "make_batch_order",
    "make_generator",
    "seeded",
    # Plain SGD (section 2)
    "snapshot",
    "sgd_step",
    "train",
    "accuracy",
    # Training losses (Eq. 1, section 6)
    "Objective",
    "cross_entropy",
    "sd_loss",
    "sd_loss_released",
    # Curvature (section 5.2)
    "batch_loss",
    "SpectralNorm",
    "hvp",
    "top_singular_value",
    # Unrolling SGD (section 5.1)
    "Expansion",
    "expand_sgd",
    # The unlearning error e, at every step of a training (section 5.3)
    "UnlearningEstimate",
    "UnlearningTracker",
    "targeted_unlearning_error",
    "unlearning_error",
    "unlearning_error_corrected",
    # Unlearning, and the verification error v (sections 3.2, 5.1 and 8.3)
    "forget_loss",
    "Unlearned",
    "single_gradient_unlearn",
    "verification_error",
    "load",
]
