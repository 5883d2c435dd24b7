"""A batch of any structure: how many examples it has, which of them are meant, and those alone."""

import copy
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from unrolling._checks import InputError


def _is_mapping(batch: Any) -> bool:
    """Return whether ``batch`` is a dict or the like: transformers' BatchEncoding is no dict."""
    return isinstance(batch, Mapping) and hasattr(batch, "__setitem__")


def _is_array(batch: Any) -> bool:
    """Return whether ``batch`` is a tensor or numpy array with a first dimension."""
    return not isinstance(batch, type) and len(getattr(batch, "shape", ())) > 0 and hasattr(batch, "dtype")


def _is_list(batch: Any) -> bool:
    """Return whether ``batch`` holds one string (or, as a list, one number) for each example."""
    kinds = str | int | float if isinstance(batch, list) else str
    return isinstance(batch, tuple | list) and bool(batch) and all(isinstance(x, kinds) for x in batch)


def _lengths(batch: Any) -> Iterator[int]:
    if _is_mapping(batch):
        for value in batch.values():
            yield from _lengths(value)
    elif _is_array(batch) or _is_list(batch):
        yield len(batch)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _lengths(value)


def batch_size(batch: Any) -> int | None:
    """Return the number of examples: the first dimension of all tensors of ``batch``; None if there is none.

    Raises:
        InputError: If two tensors differ in their first dimension.
    """
    found = set(_lengths(batch))
    if len(found) > 1:
        raise InputError(
            f"cannot tell the examples of `batch` apart: its tensors have first dimensions {sorted(found)}. "
            "Expected one row for each example in every tensor."
        )
    return found.pop() if found else None


def check_not_empty(batch: Any) -> None:
    """Raise if a tensor, or a list of texts, in ``batch`` has no rows."""
    if 0 in set(_lengths(batch)) or (isinstance(batch, Sized) and not len(batch)):
        raise InputError("the batch is empty: expected at least one example.")


def take(batch: Any, index: Sequence[int]) -> Any:
    """Return the examples ``index`` of ``batch``, in its own structure; what is not per example is kept."""
    if _is_mapping(batch):
        taken = copy.copy(batch)
        for key, value in batch.items():
            taken[key] = take(value, index)
        return taken
    if _is_array(batch):
        where = torch.tensor(index, device=batch.device) if isinstance(batch, Tensor) else list(index)
        return batch[where]
    if _is_list(batch):
        return type(batch)(batch[i] for i in index)
    if isinstance(batch, tuple | list):
        parts = [take(value, index) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
