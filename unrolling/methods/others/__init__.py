"""The unlearning methods of other papers (section 3.3), one file each."""

# Undoing or replaying steps
from unrolling.methods.others.amnesiac import (
    AmnesiacLog,
    ReleasedAmnesiacLog,
    amnesiac_unlearn,
    released_amnesiac_unlearn,
)
from unrolling.methods.others.deltagrad import DeltaGradReplay, deltagrad_unlearn
from unrolling.methods.others.linear_propagation import linear_propagation_unlearn

# Retraining little
from unrolling.methods.others.sisa import (
    Sisa,
    SisaRecipe,
    SisaUnlearned,
    assign_shards,
    sisa_probabilities,
    sisa_train,
    sisa_unlearn,
    sisa_vote,
)

# Newton steps on convex losses
from unrolling.methods.others.certified_removal import (
    CertifiedModel,
    CertifiedRemoval,
    RemovalSettings,
    certified_removal_unlearn,
    train_certified,
)
from unrolling.methods.others.newton_removal import (
    full_hessian,
    gaussian_noise_scale,
    newton_removal_bound,
    newton_unlearn,
)

# Scrubbing and filtering
from unrolling.methods.others.fisher_scrubbing import diagonal_fisher, fisher_scrub_unlearn
from unrolling.methods.others.linear_filtration import Filtered, linear_filtration_unlearn
from unrolling.methods.others.ntk_scrubbing import ntk_scrub_unlearn

# Differential privacy
from unrolling.methods.others.dp_sgd import (
    Private,
    PrivatelyUnlearned,
    dp_sgd_train,
    dp_sgd_unlearn,
    group_privacy,
)

__all__ = [
    # Undoing or replaying steps
    "AmnesiacLog",
    "amnesiac_unlearn",
    "ReleasedAmnesiacLog",
    "released_amnesiac_unlearn",
    "deltagrad_unlearn",
    "DeltaGradReplay",
    "linear_propagation_unlearn",
    # Retraining little
    "assign_shards",
    "SisaRecipe",
    "sisa_train",
    "sisa_unlearn",
    "SisaUnlearned",
    "Sisa",
    "sisa_probabilities",
    "sisa_vote",
    # Newton steps on convex losses
    "RemovalSettings",
    "train_certified",
    "certified_removal_unlearn",
    "CertifiedModel",
    "CertifiedRemoval",
    "full_hessian",
    "newton_removal_bound",
    "gaussian_noise_scale",
    "newton_unlearn",
    # Scrubbing and filtering
    "diagonal_fisher",
    "fisher_scrub_unlearn",
    "ntk_scrub_unlearn",
    "linear_filtration_unlearn",
    "Filtered",
    # Differential privacy
    "dp_sgd_train",
    "dp_sgd_unlearn",
    "group_privacy",
    "Private",
    "PrivatelyUnlearned",
]
