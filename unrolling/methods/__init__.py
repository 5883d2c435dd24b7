"""Unlearning methods, one file each; README.md shows how to add one.

Those of the paper and what it needs are here, those of other papers (section 3.3) in ``others``.
"""

# What a method returns
from unrolling.methods.cost import Cost, Unlearned

# The paper's methods, and one term more (sections 5.1 and 8.3)
from unrolling.methods.second_order import second_order_unlearn
from unrolling.methods.single_gradient import final_gradient_unlearn, single_gradient_unlearn

# What methods watch of a training
from unrolling.trackers import WeightLog

# Every method on a problem of one's own
from unrolling.methods.problem import Method, Model, NotApplicable, Outcome, Problem
from unrolling.methods.registry import METHODS, register_method

__all__ = [
    # What a method returns
    "Unlearned",
    "Cost",
    # The paper's methods, and one term more (sections 5.1 and 8.3)
    "single_gradient_unlearn",
    "final_gradient_unlearn",
    "second_order_unlearn",
    # What methods watch of a training
    "WeightLog",
    # Every method on a problem of one's own
    "Problem",
    "Method",
    "METHODS",
    "register_method",
    "Outcome",
    "Model",
    "NotApplicable",
]
