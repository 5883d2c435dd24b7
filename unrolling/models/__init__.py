"""The networks: the paper's models, the image models at any width, and small ones for a CPU."""

from unrolling.models.registry import MODELS, build_model, check_model, is_pretrained, takes_tokens

__all__ = ["MODELS", "build_model", "check_model", "is_pretrained", "takes_tokens"]
