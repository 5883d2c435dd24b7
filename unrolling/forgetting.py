r"""The loss of what is forgotten, as the step that trained on it saw it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unrolling._checks import InputError, check_examples
from unrolling._examples import batch_size, check_not_empty, take
from unrolling.model_loss import BatchLoss, Loss, check_loss_fn
from unrolling.parameters import Params

#: ``torch.get_rng_state()``, or that and ``torch.cuda.get_rng_state()``.
RandomState = Tensor | Sequence[Tensor]


def forget_loss(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    *,
    examples: Any = None,
    weights: Any = None,
    training: bool | None = True,
    random_state: RandomState | None = None,
) -> Loss:
    r"""Return the loss whose gradient a step on ``batch`` took: of all of it, or of some of its examples.

    Call it before the training or after it; buffers are those of the call, which matters where a step uses
    them in training mode, as spectral norm does (batch norm does not): then call it before the step.

    Its gradient at the weights before the step, times :math:`\eta`, is what the step took from the weights;
    :func:`unrolling.single_gradient_unlearn` adds it back. A step is a mean over b examples, so
    of some of them, F, it took

    .. math:: \frac{\sum_{i \in F} n_i}{\sum_i n_i} \, \mathcal{L}(w, F)

    with :math:`n_i = 1`, or the tokens of example i where the mean is over tokens.

    Args:
        model: The model that was trained; it is only read.
        loss_fn: ``loss_fn(model, batch) -> scalar``: the training loss, a mean. It may also return one loss
            for each example, shape (b,), whose mean (weighed with ``weights``) is the training loss.
        batch: The batch of the step, of any structure: a tensor, tuple, dict, or transformers' BatchEncoding.
        examples: Positions in the batch of what is forgotten: any integers, or a mask. By default all of it.
        weights: :math:`n_i`, shape (b,): what the mean over the batch counts an example as; or a mask over
            its tokens, shape (b, tokens), such as ``labels != -100`` (of a causal language model, which
            shifts its labels, ``labels[:, 1:] != -100``). By default all count the same.
        training: The mode of the step. None: of every module the mode that it has now, for a training
            that froze its batch norm.
        random_state: The state of the generators before the step's forward pass, where that draws random
            numbers: ``torch.get_rng_state()``; on a GPU ``(torch.get_rng_state(),
            torch.cuda.get_rng_state())``. Dropout then draws the step's mask.

    Returns:
        ``loss(params) -> scalar``. A penalty on the weights inside ``loss_fn`` is no example's: it is
        counted in proportion. Retraining that averages over the remaining examples R moves each of them by
        more, too: what it takes away is ``whole(params) - rest(params)``, with ``rest`` the loss of R alone.

    Raises:
        InputError: If the examples are not some of the batch's; if batch norm in training mode mixes them,
            so that a part has no share; or, when the loss is evaluated, if it draws random numbers that
            ``random_state`` does not say, or whose part that belongs to the examples is unknown.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> squared = lambda m, batch: (m(batch[0])[:, 0] - batch[1]).square().mean()
        >>> batch = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([3.0, 4.0])
        >>> forget_loss(model, squared, batch, examples=[0])({"weight": torch.zeros(1, 2)})  # 3 ** 2 / 2
        tensor(4.5000)
    """
    check_not_empty(batch)
    states = _states(random_state)
    return _Forgotten(model, loss_fn, batch, training=training, states=states).some(examples, weights)


class AtTheStep(BatchLoss):
    """The loss of a model on a batch with the modes, buffers and random numbers of a step.

    Modes and buffers are those of the model when this is made.

    Args:
        model: The model; it is only read.
        loss_fn: ``loss_fn(model, batch)``.
        batch: What it takes.
        training: The mode of all modules; None: each one's own.
        states: The states of the generators before the step, by default those at the call.

    Attributes:
        modes: The mode of every module.
        drew: Whether the last evaluation drew random numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        batch: Any,
        *,
        training: bool | None,
        states: tuple[Tensor, ...] | None = None,
    ):
        check_loss_fn(loss_fn)
        super().__init__(model, self._evaluate, batch, training=bool(training))
        self.modes = {module: module.training if training is None else training for module in model.modules()}
        self.drew = False
        self._on_batch, self._states = loss_fn, states
        self._buffers = {name: value.clone() for name, value in model.named_buffers()}

    @contextmanager
    def held(self, params: Params) -> Iterator[Callable[[Callable[[], Any]], Any]]:
        """As of any loss, with the modes of the step."""
        with super().held(params) as run:  # which gives all modules their own modes back
            for module, mode in self.modes.items():
                module.training = mode
            yield run

    def _evaluate(self, model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():  # they are copies here
            for name, buffer in model.named_buffers():
                buffer.copy_(self._buffers[name])
        for state in self._states or ():
            _set_generator(model, state)
        start = _generators(model)
        value = self._on_batch(model, batch)
        self.drew = not all(map(torch.equal, start, _generators(model)))
        if not isinstance(value, Tensor):
            raise InputError(
                f"loss_fn must return a tensor, got {type(value).__name__}. Of a model that returns more "
                "than its loss take that, for example model(**batch).loss."
            )
        return value


class _Forgotten(AtTheStep):
    """The part of the loss at a step that some examples are."""

    _chosen: tuple[int, ...] | None = None  # all
    _counts: Tensor | None = None  # unknown

    def some(self, examples: Any, weights: Any) -> "_Forgotten":
        """Choose the examples, and say what each of the batch counts."""
        if examples is None and weights is None:
            with suppress(InputError):  # a whole batch needs no examples in it
                size = batch_size(self.batch)
                self._counts = None if size is None else torch.ones(size, dtype=torch.float64)
            return self
        size = batch_size(self.batch)
        if size is None:
            raise InputError(
                f"cannot tell the examples of `batch` apart: {type(self.batch).__name__} holds no tensors."
            )
        self._counts = torch.ones(size, dtype=torch.float64) if weights is None else _counts(weights, size)
        chosen = None if examples is None else check_examples("examples", examples, total=size)
        if chosen is None or len(chosen) == size:
            return self
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and self.modes[module]:
                raise InputError(
                    f"batch norm ({name or 'the model'}) mixes the examples of a batch, so some of them have "
                    "no share in its step. Forget the whole batch (leave `examples` out), or train with "
                    "another norm."
                )
        self._chosen = chosen
        return self

    def _evaluate(self, model: nn.Module, batch: Any) -> Tensor:
        chosen, counts = self._chosen, self._counts
        found = super()._evaluate(model, batch if chosen is None else take(batch, chosen))
        if self.drew and self._states is None:
            raise InputError(
                "the loss draws random numbers (dropout?), and `random_state` does not say which: pass what "
                "torch.get_rng_state() gave before the step (on a GPU with torch.cuda.get_rng_state())."
            )
        if found.ndim == 0:
            if chosen is None:
                return found
            if self.drew:
                raise InputError(
                    "the loss draws random numbers for the whole batch, so those of some examples are not "
                    "known from a mean: let loss_fn return one loss for each example, shape (b,)."
                )
            return found * float(counts[list(chosen)].sum() / counts.sum())
        each = found if chosen is None else super()._evaluate(model, batch)
        if counts is None or each.shape != counts.shape:
            raise InputError(
                "loss_fn must return a scalar or one loss for each example, shape "
                f"({batch_size(batch)},), got {tuple(each.shape)}."
            )
        counted = each * counts.to(each)
        return (counted if chosen is None else counted[list(chosen)]).sum() / counts.to(each).sum()


def _counts(weights: Any, size: int) -> Tensor:
    """Return what each example counts; of a mask over tokens, how many are set."""
    try:
        counts = torch.as_tensor(weights).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"`weights` must be numbers, got {type(weights).__name__}.") from error
    if len(counts.shape) == 0 or len(counts) != size:
        raise InputError(
            f"`weights` must have one entry for each of the {size} examples, got {tuple(counts.shape)}."
        )
    counts = counts.reshape(size, -1).sum(dim=1)
    if not bool((counts >= 0).all()) or not 0 < float(counts.sum()) < float("inf"):
        raise InputError(f"`weights` must be finite, at least 0, and not all 0, got {counts.tolist()[:5]}.")
    return counts


def _gpu(model: nn.Module) -> torch.device | None:
    return next((p.device for p in model.parameters() if p.device.type == "cuda"), None)


def _generators(model: nn.Module) -> list[Tensor]:
    """Return the states of the global generators that ``model`` can draw from."""
    device = _gpu(model)
    return [torch.get_rng_state(), *([] if device is None else [torch.cuda.get_rng_state(device)])]


def _set_generator(model: nn.Module, state: Tensor) -> None:
    """Set the generator that ``state`` is of: those of GPUs are shorter."""
    device = _gpu(model)
    if device is not None and state.numel() == torch.cuda.get_rng_state(device).numel():
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _states(random_state: RandomState | None) -> tuple[Tensor, ...] | None:
    if random_state is None:
        return None
    states = (random_state,) if isinstance(random_state, Tensor) else random_state
    if not isinstance(states, tuple | list) or not all(
        isinstance(state, Tensor) and state.dtype == torch.uint8 for state in states
    ):
        raise InputError(
            "`random_state` must be what torch.get_rng_state() returned before the step, or that and "
            f"torch.cuda.get_rng_state(), got {type(random_state).__name__}."
        )
    return tuple(state.cpu() for state in states)
