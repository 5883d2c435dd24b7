"""What an unlearning method returns: new weights, and what they cost."""

from dataclasses import dataclass

from unrolling.parameters import Params


@dataclass(frozen=True)
class Cost:
    """What unlearning took, in units that do not depend on the machine.

    The kinds are kept apart: how many gradients a product is worth depends on the network and the hardware.

    Attributes:
        gradients: Gradients of the loss of one step's batch.
        hvps: Hessian-vector products with the loss of one step's batch.
        stored_bytes: Weights that had to be kept from training, besides w_t. Everyone needs the data and
            the batch order; they are not counted.
    """

    gradients: int
    hvps: int
    stored_bytes: int


@dataclass(frozen=True)
class Unlearned:
    """What an unlearning method returns.

    Attributes:
        params: The weights w'', named and shaped as the model's.
        cost: What they took.
    """

    params: Params
    cost: Cost
