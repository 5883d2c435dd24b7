"""Unlearning methods, one file each (section 3.3); README.md shows how to add one."""

from unrolling.methods.problem import Method
from unrolling.methods.registry import METHODS, register_method

__all__ = ["METHODS", "Method", "register_method"]
