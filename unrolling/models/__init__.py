"""The networks: the paper's two image models at any width, and small ones for a CPU."""

from unrolling.models.registry import MODELS, build_model

__all__ = ["MODELS", "build_model"]
