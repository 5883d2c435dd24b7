"""What an unlearning method returns: new weights, and what they cost."""

from dataclasses import InitVar, dataclass, field

from torch import Tensor

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

    gradients: float
    hvps: float
    stored_bytes: int


@dataclass(frozen=True, eq=False)
class Unlearned(dict[str, Tensor]):
    """What every unlearning method returns: the weights w'' by name, and what they took.

    It is the dict of the weights, so it goes where weights go, as into ``load``, ``verification_error`` or
    ``torch.func.functional_call``. A method that has more to return has a subclass.

    Args:
        params: The weights w'', named and shaped as the model's.

    Attributes:
        cost: What they took.
        broken: Assumptions of the method's theory that are not met, in a few words each, as far as the method
            can tell from what it is given.
    """

    params: InitVar[Params]
    cost: Cost
    broken: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self, params: Params) -> None:
        self.update(params)
