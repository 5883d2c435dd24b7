"""Metrics of unlearning, one file for each space they live in (section 3.2)."""

from unrolling.metrics import registry

#: The functions, to be called with arguments of one's own: name -> one line.
FUNCTIONS: dict[str, str] = {
    "unlearning_error": "e, Eq. 9 as printed",
    "unlearning_error_corrected": "e / eta, Eq. 9 with the factor that Eq. 7 loses",
    "targeted_unlearning_error": "the bound on the terms with the forgotten batch alone",
    "verification_error": "v, l2 distance to the retrained weights (section 3.2)",
    "total_variation_bound": "from v and Gaussian noise on the weights: total variation distance",
    "kl_divergence_bound": "from v and Gaussian noise on the weights: KL divergence",
    "delta_bound": "from v and Gaussian noise on the weights: delta at a given epsilon",
    "epsilon_bound": "from v and Gaussian noise on the weights: epsilon at a given delta",
    "accuracy": "fraction of the test set classified correctly",
    "roc_curve": "ROC curve and its area for any attack's scores",
    "tpr_at_fpr": "true positive rate of an attack at a low false positive rate",
    "output_distance": "mean and largest distance of softmax outputs to the retrained model's",
    "accuracy_gap": "accuracy minus that of the retrained model",
    "relearn_time": "steps until the forgotten data is known again",
    "loss_threshold_attack": "membership inference by a threshold on the loss (Yeom et al. 2018)",
    "shadow_model_attack": "membership inference by shadow models (Shokri et al. 2017)",
    "privacy_risk_score": "privacy risk score on probabilities (Song and Mittal 2021)",
    "privacy_risk_score_released": "privacy risk score on logits, as in the paper's code",
    "likelihood_ratio_scores": "membership of single examples from many models: LiRA, U-LiRA",
    "epsilon_lower_bound": "epsilon at a given delta that an attack's successes show, with confidence",
    "gaussian_weight_divergence": "KL divergence of Gaussians fitted to weights over seeds",
    "correlate": "correlation of two quantities, given others, with its bootstrap interval",
    "compare_correlations": "which of two proxies follows a target more closely",
    "klom": "KL divergence of margins, unlearned against retrained models (Georgiev et al. 2024)",
}

#: What ``unrolling list`` shows: the columns of the taxonomy's matrix and the functions, name -> one line.
METRICS: dict[str, str] = {name: metric.title for name, metric in registry.METRICS.items()} | FUNCTIONS
