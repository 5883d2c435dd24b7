r"""SISA: sharded, isolated, sliced, aggregated training, where forgetting retrains little and is exact.

Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie, Papernot, "Machine Unlearning", IEEE S&P
2021. The data is cut into S shards, each of which trains a model of its own, and each shard into R slices:
stage r trains on slices 1 to r, and the weights before every stage are kept. To forget an example, its shard
goes back to the weights from before the example's slice and trains on from there without it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_examples, check_integer, check_logits, check_real
from unrolling.batches import BatchOrder, Examples
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.problem import Model, Outcome, Problem, applicable, as_model
from unrolling.parameters import Params, trainable, training_mode
from unrolling.seeding import make_generator, seeded
from unrolling.training import LossFn, independent_copy, train

State = dict[str, Tensor]
Assignment = tuple[tuple[tuple[int, ...], ...], ...]
"""Indices of the examples of ``[shard][slice]``."""


def assign_shards(num_examples: int, num_shards: int, num_slices: int, *, seed: int) -> Assignment:
    """Deal the examples to shards and slices, as evenly as possible.

    It looks at indices and the seed only, never at the data: were an example's place to depend on another
    example, forgetting that one would have to move this one.

    Args:
        num_examples: Size n of the data set, at least one example per slice.
        num_shards: S; 1 is a single model.
        num_slices: R of each shard; 1 keeps no checkpoint but the initial weights.
        seed: Seed of the permutation.
    """
    check_integer("num_examples", num_examples, minimum=1)
    check_integer("num_shards", num_shards, minimum=1)
    check_integer("num_slices", num_slices, minimum=1)
    if num_examples < num_shards * num_slices:
        raise InputError(
            f"{num_shards} shards of {num_slices} slices need at least {num_shards * num_slices} examples, "
            f"got {num_examples}. Use fewer shards or slices."
        )
    order = torch.randperm(num_examples, generator=make_generator(seed, "sisa assignment"))
    shards = order.tensor_split(num_shards)
    return tuple(tuple(tuple(part.tolist()) for part in shard.tensor_split(num_slices)) for shard in shards)


@dataclass(frozen=True)
class SisaRecipe:
    """How every stage is trained.

    Attributes:
        loss_fn: ``loss_fn(model, (inputs, labels)) -> scalar``, the mean over the batch.
        learning_rate: Of plain SGD, constant.
        batch_size: Examples per step at most; an epoch is cut into as few batches as that allows, as evenly
            as possible.
        num_epochs: Of every stage. As many examples as e epochs on the whole shard are seen with
            :math:`2e / (R + 1)` epochs per stage, as in the paper.
        seed: Batches (drawn anew in every epoch) and dropout of a stage come from a stream of its own, named
            by shard and slice. So they do not depend on what was trained before.
    """

    loss_fn: LossFn
    learning_rate: float
    batch_size: int
    num_epochs: int
    seed: int

    def __post_init__(self) -> None:
        check_real("learning_rate", self.learning_rate, above=0)
        check_integer("batch_size", self.batch_size, minimum=1)
        check_integer("num_epochs", self.num_epochs, minimum=1)
        check_integer("seed", self.seed)


@dataclass(frozen=True)
class Sisa:
    """A trained ensemble and what it takes to forget.

    Attributes:
        assignment: The examples that each slice of each shard still holds.
        recipe: How it was trained.
        models: One per shard. An ensemble and the one it was unlearned from share the untouched ones.
        checkpoints: Weights and buffers before each stage, ``[shard][slice]``.
        cost: Of the call that returned this: training or forgetting.
    """

    assignment: Assignment
    recipe: SisaRecipe
    models: tuple[nn.Module, ...]
    checkpoints: tuple[tuple[State, ...], ...]
    cost: Cost

    @property
    def params(self) -> Params:
        """The trainable weights of all models, named ``"<shard>.<name>"``."""
        return {
            f"{i}.{name}": p.detach()
            for i, model in enumerate(self.models)
            for name, p in trainable(model).items()
        }


@dataclass(frozen=True, eq=False)
class SisaUnlearned(Unlearned):
    """The weights of all models of the ensemble, named ``"<shard>.<name>"``, and the ensemble.

    Attributes:
        ensemble: What predicts, and what to forget from next.
    """

    ensemble: Sisa


def sisa_train(
    model: nn.Module, inputs: Tensor, labels: Tensor, assignment: Assignment, recipe: SisaRecipe
) -> Sisa:
    """Train one copy of ``model`` per shard, stage by stage.

    Args:
        model: Where every shard starts from; left as it is.
        inputs: All examples, shape (n, ...), on the model's device.
        labels: Their classes, shape (n,).
        assignment: See :func:`assign_shards`.
        recipe: See :class:`SisaRecipe`.

    Returns:
        The ensemble. Its cost counts a gradient over k examples as k / batch_size, and S * R checkpoints.

    Raises:
        InputError: If a shard has no examples, or the assignment names one twice or one that is not there.
    """
    known = [example for shard in assignment for part in shard for example in part]
    if not known or len(set(known)) < len(known) or not set(known) <= set(range(len(labels))):
        raise InputError(
            f"`assignment` must name some of the {len(labels)} examples, each at most once, and no others. "
            "Use assign_shards."
        )
    models, checkpoints, gradients = [], [], 0.0
    for shard in range(len(assignment)):
        trained, before, spent = _train_shard(model, inputs, labels, assignment, recipe, shard)
        models.append(trained)
        checkpoints.append(before)
        gradients += spent
    cost = Cost(gradients=gradients, hvps=0, stored_bytes=_num_bytes(checkpoints))
    return Sisa(assignment, recipe, tuple(models), tuple(checkpoints), cost)


def sisa_unlearn(sisa: Sisa, inputs: Tensor, labels: Tensor, forget: Examples) -> SisaUnlearned:
    r"""Forget examples exactly: bit for bit what :func:`sisa_train` gives on an assignment without them.

    Each shard that holds some goes back to before the first of their slices. Where S shards of R slices are
    equal and n is large, one example costs, relative to training everything,

    .. math:: \frac{2}{S (R + 1)} \ \text{in the last slice, at best} , \qquad
              \frac{2R + 1}{3 R S} \ \text{on average over examples} .

    The other examples stay where they are. "From scratch" therefore means this assignment without the
    examples, not one that is dealt anew.

    Args:
        sisa: The ensemble; left as it is.
        inputs: The inputs that it was trained on; the rows in ``forget`` are not read.
        labels: Their classes.
        forget: The examples to forget: whole numbers in any form, or a mask of shape (n,).

    Returns:
        A new ensemble and its weights. The cost is that of this call, and all checkpoints.

    Raises:
        InputError: If ``forget`` is empty, names an example that the ensemble does not hold, or leaves a
            shard without any.
    """
    gone = set(check_examples("forget", forget, total=len(labels)))
    unknown = gone - {example for shard in sisa.assignment for part in shard for example in part}
    if unknown:
        raise InputError(
            f"the ensemble holds no examples {sorted(unknown)[:4]}: never trained on, or already forgotten."
        )
    assignment = tuple(
        tuple(tuple(example for example in part if example not in gone) for part in shard)
        for shard in sisa.assignment
    )
    models, checkpoints, gradients = list(sisa.models), list(sisa.checkpoints), 0.0
    for shard, (before, after) in enumerate(zip(sisa.assignment, assignment, strict=True)):
        touched = [part for part in range(len(before)) if before[part] != after[part]]
        if touched:
            first = touched[0]
            kept = sisa.checkpoints[shard][: first + 1]
            start = independent_copy(sisa.models[shard])
            start.load_state_dict(kept[first])
            models[shard], later, spent = _train_shard(
                start, inputs, labels, assignment, sisa.recipe, shard, first
            )
            checkpoints[shard] = kept + later[1:]
            gradients += spent
    cost = Cost(gradients=gradients, hvps=0, stored_bytes=_num_bytes(checkpoints))
    ensemble = Sisa(assignment, sisa.recipe, tuple(models), tuple(checkpoints), cost)
    return SisaUnlearned(ensemble.params, cost, ensemble)


def sisa_probabilities(sisa: Sisa, inputs: Tensor) -> Tensor:
    """Return the mean over the models of their softmax, shape (batch, classes), in evaluation mode."""
    return torch.stack([logits.softmax(dim=1) for logits in _logits(sisa, inputs)]).mean(dim=0)


def sisa_vote(sisa: Sisa, inputs: Tensor) -> Tensor:
    """Return the class that most models predict, shape (batch,); of several, the one of least number."""
    logits = _logits(sisa, inputs)
    votes = [nn.functional.one_hot(each.argmax(dim=1), each.shape[1]) for each in logits]
    return torch.stack(votes).sum(dim=0).argmax(dim=1)


def _logits(sisa: Sisa, inputs: Tensor) -> list[Tensor]:
    found = []
    for model in sisa.models:
        with torch.no_grad(), training_mode(model, False):
            found.append(model(inputs.clone()))
            check_logits(found[-1])
    return found


def _train_shard(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    assignment: Assignment,
    recipe: SisaRecipe,
    shard: int,
    first: int = 0,
) -> tuple[nn.Module, tuple[State, ...], float]:
    """Run the stages from ``first`` on; return the model, the states before each of them, and gradients."""
    if not any(assignment[shard]):
        raise InputError(
            f"shard {shard} has no examples left. Deal the remaining examples to fewer shards and train anew."
        )
    trained, before, gradients = independent_copy(model), [], 0.0
    for part in range(first, len(assignment[shard])):
        before.append({name: value.detach().clone() for name, value in trained.state_dict().items()})
        examples = [example for seen in assignment[shard][: part + 1] for example in seen]
        if examples:  # else: all that the first slices held is forgotten
            order = _batch_order(examples, recipe, shard, part)
            with seeded(recipe.seed, "sisa dropout", shard, part):
                train(trained, inputs, labels, order, recipe.loss_fn, learning_rate=recipe.learning_rate)
            gradients += sum(map(len, order)) / recipe.batch_size
    return trained, tuple(before), gradients


def _batch_order(examples: Sequence[int], recipe: SisaRecipe, shard: int, part: int) -> BatchOrder:
    generator = make_generator(recipe.seed, "sisa batches", shard, part)
    num_batches = math.ceil(len(examples) / recipe.batch_size)
    steps = []
    for _ in range(recipe.num_epochs):
        # Parts of even size: forgetting must not leave a last batch of one, where batch norm cannot train.
        for places in torch.randperm(len(examples), generator=generator).tensor_split(num_batches):
            steps.append(tuple(examples[place] for place in places.tolist()))
    return BatchOrder(tuple(steps))


def _num_bytes(checkpoints: Sequence[Sequence[State]]) -> int:
    return sum(value.nbytes for shard in checkpoints for state in shard for value in state.values())


def run_sisa(problem: Problem, *, num_shards: int = 3, num_slices: int = 3) -> Outcome:
    """Train an ensemble of its own on the same examples, and forget F from it.

    M' is trained from scratch on the same assignment without F. Epochs per stage are such that about as many
    examples are seen as by the problem's own training.
    """
    places = problem.examples
    epochs = sum(map(len, problem.order)) / len(places)
    with applicable():
        dealt = assign_shards(len(places), num_shards, num_slices, seed=problem.seed)
        assignment = tuple(tuple(tuple(places[i] for i in part) for part in shard) for shard in dealt)
        recipe = SisaRecipe(
            problem.loss_fn,
            learning_rate=problem.learning_rate,
            batch_size=problem.batch_size,
            num_epochs=max(1, round(2 * epochs / (num_slices + 1))),
            seed=problem.seed,
        )
        trained = sisa_train(problem.model, problem.inputs, problem.labels, assignment, recipe)
        unlearned = sisa_unlearn(trained, problem.inputs, problem.labels, problem.forget)
    without = tuple(tuple(problem.split(part)[0] for part in shard) for shard in assignment)
    retrained = sisa_train(problem.model, problem.inputs, problem.labels, without, recipe)
    # The checkpoints serve later requests; a reference that will serve none keeps only where it started.
    start = sum(value.nbytes for value in problem.model.state_dict().values())
    return Outcome(
        trained=_as_model(trained),
        unlearned=_as_model(unlearned.ensemble),
        retrained=_as_model(retrained),
        cost=replace(unlearned.cost, stored_bytes=trained.cost.stored_bytes),
        retraining=replace(retrained.cost, stored_bytes=start),
    )


def _as_model(sisa: Sisa) -> Model:
    models = [as_model(model) for model in sisa.models]

    def logits(inputs: Tensor) -> Tensor:
        logs = torch.stack([model.logits(inputs).log_softmax(dim=1) for model in models])
        return logs.logsumexp(dim=0) - math.log(len(models))

    return Model(sisa.params, logits)
