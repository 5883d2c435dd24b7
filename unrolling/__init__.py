"""Executable companion of *Unrolling SGD: Understanding Factors Influencing Machine Unlearning*.

The names below are the public API, grouped by the paper's sections.
"""

# Data, models and plain SGD (sections 2, 7 and 9)
from unrolling.data import Dataset, load_dataset
from unrolling.models import build_model
from unrolling.seeding import make_generator, seeded
from unrolling.batches import BatchOrder, make_batch_order
from unrolling.training import copy_for_retraining, sgd_step, train
from unrolling.trackers import WeightLog, accuracy

# Training losses (Eq. 1, section 6)
from unrolling.losses import (
    Objective,
    collapse_gamma,
    cross_entropy,
    gamma_from_released,
    half_squared_l2_norm,
    l2_norm,
    logit_hessian_penalty,
    logit_std,
    sd_loss,
    sd_loss_released,
)

# Curvature (section 5.2)
from unrolling.curvature import SpectralNorm, hvp, top_singular_value
from unrolling.parameters import batch_loss, snapshot

# Unrolling SGD (section 5.1)
from unrolling.expansion import Expansion, expand_sgd

# Verification error and unlearning error (sections 3.2 and 5.3)
from unrolling.trackers import UnlearningEstimate, UnlearningTracker
from unrolling.unlearning_error import (
    targeted_unlearning_error,
    unlearning_error,
    unlearning_error_corrected,
    verification_error,
)

# What the verification error implies (section 4.1)
from unrolling.metrics.weights import (
    delta_bound,
    epsilon_bound,
    kl_divergence_bound,
    total_variation_bound,
)

# Unlearning (sections 5.1 and 8.3) and beyond the first sum
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.linear_propagation import linear_propagation_unlearn
from unrolling.methods.second_order import second_order_unlearn
from unrolling.methods.single_gradient import final_gradient_unlearn, single_gradient_unlearn

__version__ = "0.1.0"

__all__ = [
    "BatchOrder",
    "Cost",
    "Dataset",
    "Expansion",
    "Objective",
    "SpectralNorm",
    "Unlearned",
    "UnlearningEstimate",
    "UnlearningTracker",
    "WeightLog",
    "accuracy",
    "batch_loss",
    "build_model",
    "collapse_gamma",
    "copy_for_retraining",
    "cross_entropy",
    "delta_bound",
    "epsilon_bound",
    "expand_sgd",
    "final_gradient_unlearn",
    "gamma_from_released",
    "half_squared_l2_norm",
    "hvp",
    "kl_divergence_bound",
    "l2_norm",
    "linear_propagation_unlearn",
    "load_dataset",
    "logit_hessian_penalty",
    "logit_std",
    "make_batch_order",
    "make_generator",
    "sd_loss",
    "sd_loss_released",
    "second_order_unlearn",
    "seeded",
    "sgd_step",
    "single_gradient_unlearn",
    "snapshot",
    "targeted_unlearning_error",
    "top_singular_value",
    "total_variation_bound",
    "train",
    "unlearning_error",
    "unlearning_error_corrected",
    "verification_error",
]
