"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import contracts
import kernels

STEMS = (
    "attention",
    "linear",
    "noise",
    "norm",
    "paged",
    "pick",
    "prompts",
    "pruning",
    "quantised",
    "rotary",
    "swiglu",
    "tiles",
)
METHODS = {"linear.Linear", "linear.Linear.add_to", "linear.Linear.embed", "prompts.PromptAttention"}
METHODS |= {"quantised.QuantisedLinear", "quantised.QuantisedLinear.add_to"}


def test_examples_in_docstrings_are_true() -> None:
    names = [
        module.name
        for package in (contracts, kernels)
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        if not module.name.startswith("kernels.gpu.")  # needs Triton; its public functions are those beside it
    ]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert {name for name, result in results.items() if result.failed} == set()
    shown = {name for name, result in results.items() if result.attempted}
    assert shown >= {f"kernels.{stem}" for stem in STEMS}


def test_every_operation_has_an_example() -> None:
    """Its own, whatever else its file shows; a reference is what the example of its operation says."""
    without = set()
    for stem in STEMS:
        module = importlib.import_module(f"kernels.{stem}")
        found = {test.name.removeprefix("kernels."): test.examples for test in doctest.DocTestFinder().find(module)}
        names = {f"{stem}.{name}" for name in module.__all__ if inspect.isfunction(getattr(module, name))}
        names |= {name for name in METHODS if name.startswith(f"{stem}.")}
        names = {name for name in names if not name.endswith("_reference") and ".check_" not in name}
        without |= {name for name in names if not found.get(name)}
    assert without == set()
