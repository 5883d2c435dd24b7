"""What a run would need at least, compared with what there is, before any work starts."""

import math
import os
from dataclasses import replace
from pathlib import Path

import torch

from unrolling._checks import InputError
from unrolling.data import Dataset
from unrolling.models import build_model, is_pretrained, takes_tokens
from unrolling.runs.config import MOST_STEPS, RunConfig
from unrolling.runs.protocol import make_protocol

#: Copies of the weights that every run holds: M, M' and w_0, a gradient of each of M and M', the
#: forgotten gradient, and the two vectors of a Hessian-vector product.
COPIES = 8
#: Bytes of an example's number in the batch order, which is drawn anew in every epoch of pre-training.
_BYTES_PER_VISIT = 40


def check_work(config: RunConfig, dataset: Dataset, device: torch.device) -> None:
    """Raise if a run could not end, would not fit into memory, or asks for what the data do not have.

    Args:
        config: The run.
        dataset: Its data.
        device: Where it is to be computed.

    Raises:
        InputError: If it takes more than ``MOST_STEPS`` steps, more memory than there is, or examples or
            batches that there are not.
    """
    num_examples = len(dataset.train_labels)
    first, second = (
        math.ceil(num_examples / size)
        for size in (config.pretrain_batch_size or config.batch_size, config.batch_size)
    )
    steps = config.pretrain_epochs * first + config.epochs * second
    if steps > MOST_STEPS:
        raise InputError(
            f"pretrain_epochs {config.pretrain_epochs:,} of {first:,} steps and epochs {config.epochs:,} of "
            f"{second:,} make {steps:,} steps; expected at most {MOST_STEPS:,}. Ask for fewer epochs."
        )
    if config.sigma_batch > num_examples:
        raise InputError(
            f"sigma_batch must be at most the {num_examples:,} training examples, got {config.sigma_batch:,}."
        )
    # One epoch shows whether there are such batches, and such examples to forget.
    make_protocol(replace(config, pretrain_epochs=0, epochs=1), num_examples, dataset.train_lengths)
    memory = _memory(device)
    order = _BYTES_PER_VISIT * config.pretrain_epochs * num_examples
    if order > memory:
        raise InputError(
            f"the order of {config.pretrain_epochs:,} epochs of {num_examples:,} examples takes "
            f"{order / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB. Ask for fewer epochs."
        )
    weights = num_weights(config, dataset)
    needed = COPIES * weights * torch.finfo(getattr(torch, config.dtype)).bits // 8
    if needed > memory:
        raise InputError(
            f"{config.model} of width {config.width or 'its own'} has {weights:,} weights here. "
            f"{COPIES} copies in {config.dtype} take {needed / 1e9:,.1f} GB, and {device} has "
            f"{memory / 1e9:,.1f} GB. Choose a smaller width or model."
        )


def num_weights(config: RunConfig, dataset: Dataset) -> int:
    """Return how many weights a run's network has, without making them; 0 for a pretrained one."""
    if is_pretrained(config.model):  # as many as its file has, whatever the settings are
        return 0
    reads_texts = takes_tokens(config.model)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = build_model(
            config.model,
            dataset.num_classes,
            input_shape=(config.max_tokens,) if reads_texts else tuple(dataset.train_inputs.shape[1:]),
            width=config.width or None,
            vocab_size=config.vocab_size,
        )
    return sum(weight.numel() for weight in network.parameters())


def _memory(device: torch.device) -> float:
    """Return the bytes of memory that a device has, infinity where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = [math.inf]
    if hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:  # the limit of a container
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return min(found)
