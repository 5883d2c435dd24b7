r"""Transformers that classify texts: DistilBERT in a small configuration, and any pretrained one (section 7).

Inputs are token numbers, padded on the right; see :func:`unrolling.data.text.encode`. Dropout is off unless
asked for: M, M' and M'' are compared weight by weight, and independent masks alone would drive them apart.
"""

from typing import Any

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.models.pretrained import Pretrained, installed_transformers, quiet

#: Layers and heads of ``distilbert-small``; the paper's DistilBERT has 6 and 12, and width 768.
NUM_LAYERS, NUM_HEADS = 2, 2


class TextClassifier(nn.Module):
    """A sequence classifier of the transformers library as a map from token numbers to logits.

    Args:
        network: A module such as ``DistilBertForSequenceClassification``.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of shape (batch, classes).

        Args:
            tokens: int64 of shape (batch, tokens), padded on the right. Padding is cut off as far as it
                reaches in every text, and masked in the rest, so the logits do not depend on it.
        """
        tokens, mask = without_padding(tokens, self.network.config.pad_token_id)
        return self.network(input_ids=tokens, attention_mask=mask).logits

    @property
    def encoder(self) -> nn.Module:
        """The network without its head."""
        return self.network.base_model


def without_padding(tokens: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return the tokens cut to the longest text of the batch, and the mask of those that are no padding."""
    real = tokens != pad
    used = real.any(dim=0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 1
    return tokens[:, :longest], real[:, :longest].long()


def distilbert_small(
    num_tokens: int, num_classes: int, width: int, vocab_size: int, dropout: float
) -> TextClassifier:
    """Return a DistilBERT of two layers with new weights.

    Args:
        num_tokens: Longest text.
        num_classes: Number of logits.
        width: Of the embeddings; the feed-forward layers are twice as wide.
        vocab_size: Number of token numbers; 0 is the padding.
        dropout: Rate of dropout, everywhere that DistilBERT has it.
    """
    if width % NUM_HEADS:
        raise InputError(f"width must be a multiple of {NUM_HEADS}, the number of heads, got {width}.")
    transformers = installed_transformers()
    config = transformers.DistilBertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=num_tokens,
        dim=width,
        hidden_dim=2 * width,
        n_layers=NUM_LAYERS,
        n_heads=NUM_HEADS,
        num_labels=num_classes,
        **_dropout_rates(transformers.DistilBertConfig(), dropout),
    )
    return TextClassifier(transformers.DistilBertForSequenceClassification(config))


def pretrained_classifier(pretrained: Pretrained, num_classes: int, dropout: float) -> TextClassifier:
    """Return a pretrained network; where its head is not for so many classes, it gets a new one.

    Args:
        pretrained: Where it is.
        num_classes: Number of logits.
        dropout: Rate of dropout; the rate that it was published with does not count.

    Raises:
        DataError: If its files are damaged.
        InputError: If it has no padding token.
    """
    transformers = installed_transformers()
    config = pretrained.load(transformers.AutoConfig)
    if config.pad_token_id is None:
        raise InputError(
            f"model {pretrained.name!r} has no padding token; expected an encoder such as DistilBERT or BERT."
        )
    rates = _dropout_rates(config, dropout)
    with quiet(transformers):
        return TextClassifier(
            pretrained.load(
                transformers.AutoModelForSequenceClassification,
                num_labels=num_classes,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                **rates,
            )
        )


def pooled_features(encoder: nn.Module, tokens: Tensor, *, batch_size: int = 32) -> Tensor:
    r"""Return the mean of the last hidden states over each text's tokens, shape (texts, width).

    DistilBERT has no pooling layer of its own; ``minilm-l6`` was trained for the mean.

    Args:
        encoder: A network without a head, such as :attr:`TextClassifier.encoder`; only read.
        tokens: int64 of shape (texts, tokens), padded on the right. Texts of similar length next to one
            another save time.
        batch_size: Texts at a time.
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    parts = []
    with torch.inference_mode():
        for part in tokens.split(batch_size):
            cut, mask = without_padding(part.to(device), encoder.config.pad_token_id)
            states = encoder(input_ids=cut, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(2).to(states.dtype)
            parts.append((states * weights).sum(dim=1) / weights.sum(dim=1))
    encoder.train(was_training)
    return torch.cat(parts).cpu().clone()


def _dropout_rates(config: Any, rate: float) -> dict[str, float]:
    """Return every dropout setting of a configuration, whatever it is called, at ``rate``."""
    given = config.to_dict().items()
    return {name: rate for name, value in given if "dropout" in name and isinstance(value, (int, float))}
