"""Every example in a docstring gives what it shows."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import unrolling

MODULES = [module.name for module in pkgutil.walk_packages(unrolling.__path__, "unrolling.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    names = {"torch": torch} | {public: getattr(unrolling, public) for public in unrolling.__all__}
    failed, _ = doctest.testmod(module, extraglobs=names)
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(examples) >= 8
