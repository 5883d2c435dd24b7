"""Executable companion of *Unrolling SGD: Understanding Factors Influencing Machine Unlearning*.

The names below are the public API, grouped by the paper's sections.
"""

# Data, models and plain SGD (sections 2, 7 and 9)
from unrolling.data import Dataset, TextDataset, load_dataset
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
    logit_hessian_trace,
    logit_std,
    sd_loss,
    sd_loss_released,
)

# Curvature (section 5.2)
from unrolling.curvature import SpectralNorm, hvp, top_singular_value
from unrolling.model_loss import batch_loss
from unrolling.parameters import snapshot
from unrolling.probes import check_deterministic, check_symmetric

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
from unrolling.forgetting import forget_loss
from unrolling.loading import load
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.others.linear_propagation import linear_propagation_unlearn
from unrolling.methods.second_order import second_order_unlearn
from unrolling.methods.single_gradient import final_gradient_unlearn, single_gradient_unlearn

# Methods of others (section 3.3)
from unrolling.methods.others.amnesiac import (
    AmnesiacLog,
    ReleasedAmnesiacLog,
    amnesiac_unlearn,
    released_amnesiac_unlearn,
)
from unrolling.methods.others.certified_removal import (
    CertifiedModel,
    CertifiedRemoval,
    RemovalSettings,
    certified_removal_unlearn,
    train_certified,
)
from unrolling.methods.others.deltagrad import DeltaGradReplay, deltagrad_unlearn
from unrolling.methods.others.dp_sgd import (
    Private,
    PrivatelyUnlearned,
    dp_sgd_train,
    dp_sgd_unlearn,
    group_privacy,
)
from unrolling.methods.others.fisher_scrubbing import diagonal_fisher, fisher_scrub_unlearn
from unrolling.methods.others.linear_filtration import Filtered, linear_filtration_unlearn
from unrolling.methods.others.newton_removal import (
    full_hessian,
    gaussian_noise_scale,
    newton_removal_bound,
    newton_unlearn,
)
from unrolling.methods.others.ntk_scrubbing import ntk_scrub_unlearn
from unrolling.methods.others.sisa import (
    Sisa,
    SisaRecipe,
    assign_shards,
    sisa_probabilities,
    sisa_train,
    sisa_unlearn,
    sisa_vote,
)

# Every method on a problem of one's own
from unrolling.methods.problem import Method, Model, NotApplicable, Outcome, Problem
from unrolling.methods.registry import register_method

# Metrics of unlearning (section 3.2)
from unrolling.metrics.association import (
    Correlation,
    CorrelationDifference,
    compare_correlations,
    correlate,
)
from unrolling.metrics.leakage import (
    EpsilonLowerBound,
    WeightDivergence,
    epsilon_lower_bound,
    gaussian_weight_divergence,
)
from unrolling.metrics.likelihood_ratio import klom, likelihood_ratio_scores, logit_margin
from unrolling.metrics.membership import ThresholdAttack, loss_threshold_attack, shadow_model_attack
from unrolling.metrics.outputs import (
    OutputDistance,
    RelearnTime,
    accuracy_gap,
    output_distance,
    relearn_time,
)
from unrolling.metrics.privacy_risk import modified_entropy, privacy_risk_score, privacy_risk_score_released
from unrolling.metrics.roc import RocCurve, roc_curve, tpr_at_fpr

__version__ = "0.1.0"

__all__ = [
    "AmnesiacLog",
    "BatchOrder",
    "CertifiedModel",
    "CertifiedRemoval",
    "Correlation",
    "CorrelationDifference",
    "Cost",
    "Dataset",
    "DeltaGradReplay",
    "EpsilonLowerBound",
    "Expansion",
    "Filtered",
    "Method",
    "Model",
    "NotApplicable",
    "Objective",
    "Outcome",
    "OutputDistance",
    "Private",
    "PrivatelyUnlearned",
    "Problem",
    "RelearnTime",
    "ReleasedAmnesiacLog",
    "RemovalSettings",
    "RocCurve",
    "Sisa",
    "SisaRecipe",
    "SpectralNorm",
    "TextDataset",
    "ThresholdAttack",
    "Unlearned",
    "UnlearningEstimate",
    "UnlearningTracker",
    "WeightDivergence",
    "WeightLog",
    "accuracy",
    "accuracy_gap",
    "amnesiac_unlearn",
    "assign_shards",
    "batch_loss",
    "build_model",
    "certified_removal_unlearn",
    "check_deterministic",
    "check_symmetric",
    "collapse_gamma",
    "compare_correlations",
    "copy_for_retraining",
    "correlate",
    "cross_entropy",
    "delta_bound",
    "deltagrad_unlearn",
    "diagonal_fisher",
    "dp_sgd_train",
    "dp_sgd_unlearn",
    "epsilon_bound",
    "epsilon_lower_bound",
    "expand_sgd",
    "final_gradient_unlearn",
    "fisher_scrub_unlearn",
    "forget_loss",
    "full_hessian",
    "gamma_from_released",
    "gaussian_noise_scale",
    "gaussian_weight_divergence",
    "group_privacy",
    "half_squared_l2_norm",
    "hvp",
    "kl_divergence_bound",
    "klom",
    "l2_norm",
    "likelihood_ratio_scores",
    "linear_filtration_unlearn",
    "linear_propagation_unlearn",
    "load",
    "load_dataset",
    "logit_hessian_penalty",
    "logit_hessian_trace",
    "logit_margin",
    "logit_std",
    "loss_threshold_attack",
    "make_batch_order",
    "make_generator",
    "modified_entropy",
    "newton_removal_bound",
    "newton_unlearn",
    "ntk_scrub_unlearn",
    "output_distance",
    "privacy_risk_score",
    "privacy_risk_score_released",
    "register_method",
    "relearn_time",
    "released_amnesiac_unlearn",
    "roc_curve",
    "sd_loss",
    "sd_loss_released",
    "second_order_unlearn",
    "seeded",
    "sgd_step",
    "shadow_model_attack",
    "single_gradient_unlearn",
    "sisa_probabilities",
    "sisa_train",
    "sisa_unlearn",
    "sisa_vote",
    "snapshot",
    "targeted_unlearning_error",
    "top_singular_value",
    "total_variation_bound",
    "tpr_at_fpr",
    "train",
    "train_certified",
    "unlearning_error",
    "unlearning_error_corrected",
    "verification_error",
]
