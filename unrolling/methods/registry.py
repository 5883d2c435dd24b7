"""All methods under one signature: from a :class:`~unrolling.methods.problem.Problem` to an ``Outcome``."""

from unrolling._checks import check_free
from unrolling.methods.baselines import run_nothing, run_retrain
from unrolling.methods.others.amnesiac import run_amnesiac, run_amnesiac_released
from unrolling.methods.others.certified_removal import run_certified_removal
from unrolling.methods.others.deltagrad import run_deltagrad
from unrolling.methods.others.dp_sgd import run_dp_sgd
from unrolling.methods.others.fisher_scrubbing import run_fisher_scrubbing
from unrolling.methods.others.linear_filtration import run_linear_filtration
from unrolling.methods.others.linear_propagation import run_linear_propagation
from unrolling.methods.others.newton_removal import run_newton_removal
from unrolling.methods.others.ntk_scrubbing import run_ntk_scrubbing
from unrolling.methods.others.sisa import run_sisa
from unrolling.methods.problem import Method
from unrolling.methods.second_order import run_second_order
from unrolling.methods.single_gradient import run_final_gradient, run_single_gradient

METHODS: dict[str, Method] = {
    "retrain": Method(
        "train again without the data: M', what all others are measured against", "section 3.1", run_retrain
    ),
    "nothing": Method(
        "keep the trained model: the baseline that the paper does not report", "baseline", run_nothing
    ),
    "single_gradient": Method("add back the gradients taken at w_0", "section 5.1", run_single_gradient),
    "final_gradient": Method("add back one gradient taken at w_t", "section 8.3", run_final_gradient),
    "second_order": Method(
        "also remove the data's terms of Eq. 6, with Hessians at w_0", "not in the paper", run_second_order
    ),
    "linear_propagation": Method(
        "carry the removal to first order along the stored trajectory",
        "Hara et al. 2019",
        run_linear_propagation,
    ),
    "certified_removal": Method(
        "a Newton step on a convex linear model, hidden by noise in its loss",
        "Guo et al. 2020",
        run_certified_removal,
    ),
    "newton_removal": Method(
        "a Newton step from a stored Hessian, and noise on the weights",
        "Sekhari et al. 2021",
        run_newton_removal,
    ),
    "deltagrad": Method(
        "replay the steps with most gradients from the cached ones", "Wu et al. 2020", run_deltagrad
    ),
    "sisa": Method(
        "train shards in slices, and retrain one shard from a checkpoint", "Bourtoule et al. 2021", run_sisa
    ),
    "amnesiac": Method(
        "subtract the logged updates of the forgotten steps", "Graves et al. 2021", run_amnesiac
    ),
    "amnesiac_released": Method(
        "add back gradients taken after the forgotten steps", "the paper's code", run_amnesiac_released
    ),
    "linear_filtration": Method(
        "forget a class by mixing the logits", "Baumhauer et al. 2022", run_linear_filtration
    ),
    "fisher_scrubbing": Method(
        "add noise where the retained data does not notice it", "Golatkar et al. 2020a", run_fisher_scrubbing
    ),
    "ntk_scrubbing": Method(
        "retrain the network linearised at w_0, for small sets", "Golatkar et al. 2020b", run_ntk_scrubbing
    ),
    "dp_sgd": Method("train with differential privacy, then change nothing", "Abadi et al. 2016", run_dp_sgd),
}


def register_method(name: str, method: Method) -> None:
    """Add a method of your own to :data:`METHODS`.

    Args:
        name: Its key, as in ``METHODS[name].run(problem)``.
        method: See the README of this folder for a recipe.

    Raises:
        InputError: If the name is taken.
    """
    METHODS[check_free("method", name, METHODS)] = method
