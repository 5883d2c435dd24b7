"""Metrics of unlearning, a file for each space they live in (section 3.2); README.md shows how to add one."""

# What the verification error implies (section 4.1)
from unrolling.metrics.weights import (
    delta_bound,
    epsilon_bound,
    kl_divergence_bound,
    total_variation_bound,
)

# Distributions of weights
from unrolling.metrics.leakage import (
    EpsilonLowerBound,
    WeightDivergence,
    epsilon_lower_bound,
    gaussian_weight_divergence,
)

# Outputs
from unrolling.metrics.outputs import (
    OutputDistance,
    RelearnTime,
    accuracy_gap,
    output_distance,
    relearn_time,
)
from unrolling.metrics.likelihood_ratio import klom, logit_margin

# Membership
from unrolling.metrics.likelihood_ratio import likelihood_ratio_scores
from unrolling.metrics.membership import ThresholdAttack, loss_threshold_attack, shadow_model_attack
from unrolling.metrics.privacy_risk import modified_entropy, privacy_risk_score, privacy_risk_score_released
from unrolling.metrics.roc import RocCurve, roc_curve, tpr_at_fpr

# How closely two quantities follow each other
from unrolling.metrics.association import (
    Correlation,
    CorrelationDifference,
    compare_correlations,
    correlate,
)

# Every metric on models of one's own
from unrolling.metrics.case import Case, Measured, Run, Undefined
from unrolling.metrics.registry import METRICS, Metric, measure, register_metric

__all__ = [
    # What the verification error implies (section 4.1)
    "total_variation_bound",
    "kl_divergence_bound",
    "delta_bound",
    "epsilon_bound",
    # Distributions of weights
    "gaussian_weight_divergence",
    "WeightDivergence",
    "epsilon_lower_bound",
    "EpsilonLowerBound",
    # Outputs
    "output_distance",
    "OutputDistance",
    "accuracy_gap",
    "relearn_time",
    "RelearnTime",
    "logit_margin",
    "klom",
    # Membership
    "loss_threshold_attack",
    "ThresholdAttack",
    "shadow_model_attack",
    "likelihood_ratio_scores",
    "modified_entropy",
    "privacy_risk_score",
    "privacy_risk_score_released",
    "roc_curve",
    "RocCurve",
    "tpr_at_fpr",
    # How closely two quantities follow each other
    "correlate",
    "Correlation",
    "compare_correlations",
    "CorrelationDifference",
    # Every metric on models of one's own
    "Case",
    "Run",
    "Measured",
    "Metric",
    "METRICS",
    "measure",
    "register_metric",
    "Undefined",
]
