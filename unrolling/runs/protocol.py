"""Who is trained on what: the batches of M and of M', and what is forgotten (sections 8.1 and 8.3)."""

from dataclasses import dataclass

from torch import Tensor

from unrolling._checks import InputError
from unrolling.batches import BatchOrder, make_batch_order
from unrolling.runs.config import RunConfig
from unrolling.seeding import make_generator


@dataclass(frozen=True)
class Protocol:
    """The batches of one run.

    Attributes:
        pretraining: The steps from M_0 to M_N. Every epoch is shuffled anew.
        pretraining_retrained: Those of M', if it does not start from the same M_N.
        order: The t steps from w_0 on. All epochs have the same batches in the same order, so that one batch
            can be left out of every epoch.
        forget: F, the examples to unlearn.
        left_out: The examples that M' never sees in the t steps: F, but for one released convention.
    """

    pretraining: BatchOrder
    pretraining_retrained: BatchOrder | None
    order: BatchOrder
    forget: tuple[int, ...]
    left_out: tuple[int, ...]


def make_protocol(config: RunConfig, num_examples: int, lengths: Tensor | None = None) -> Protocol:
    """Return who is trained on what in a run on ``num_examples`` training examples.

    Args:
        config: The run.
        num_examples: Training examples.
        lengths: Tokens of each; a batch then has texts of similar length.

    Raises:
        InputError: If the run is to forget a batch, or more examples, than an epoch has.
    """
    size, seed = config.batch_size, config.seed
    pretraining = make_batch_order(
        num_examples,
        config.pretrain_batch_size or size,
        config.pretrain_epochs,
        make_generator(seed, "pretraining order"),
        reshuffle=True,
        lengths=lengths,
    )
    if "fixed_order" in config.conventions:
        steps = tuple(range(num_examples)[i : i + size] for i in range(0, num_examples, size))
        order = BatchOrder(tuple(map(tuple, steps)) * config.epochs)
    else:
        generator = make_generator(seed, "batch order")
        order = make_batch_order(num_examples, size, config.epochs, generator, lengths=lengths)
    epoch = order.steps[: len(order) // config.epochs]
    forget = _forget_set(config, epoch)
    next_batch = epoch[(config.forget_batch + 1) % len(epoch)]
    return Protocol(
        pretraining=pretraining.without(forget) if config.pretraining == "without_forgotten" else pretraining,
        pretraining_retrained=pretraining.without(forget) if config.pretraining == "retrained" else None,
        order=order,
        forget=forget,
        left_out=next_batch if "wrong_batch" in config.conventions else forget,
    )


def _forget_set(config: RunConfig, epoch: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    first, count = config.forget_batch, config.forget_count
    if first + count > len(epoch) or count == len(epoch):
        raise InputError(
            f"forget_batch and forget_count must name some but not all of an epoch's {len(epoch)} batches, "
            f"0..{len(epoch) - 1}, got {count} from {first} on."
        )
    examples = sum(epoch[first : first + count], ())
    if config.forget_size > len(examples):
        raise InputError(
            f"forget_size must be at most the {len(examples)} examples of the forgotten batch, "
            f"got {config.forget_size}."
        )
    return examples[: config.forget_size] if config.forget_size else examples
