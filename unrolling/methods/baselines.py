"""The two ends between which unlearning takes place: train again, or do nothing."""

from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.problem import Outcome, Problem, as_model


def run_retrain(problem: Problem) -> Outcome:
    """Train again from w_0 without F, which is removed in place from every batch: M'' is M'."""
    retrained = as_model(problem.retrained)
    return Outcome(
        trained=as_model(problem.trained),
        unlearned=retrained,
        retrained=retrained,
        cost=problem.retraining,
        retraining=problem.retraining,
    )


def run_nothing(problem: Problem) -> Outcome:
    """Keep the trained weights: the baseline that the paper does not report."""
    return problem.outcome(Unlearned(problem.final_params, Cost(gradients=0, hvps=0, stored_bytes=0)))
