"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import contracts
import kernels


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
    stems = (
        "attention",
        "linear",
        "noise",
        "norm",
        "paged",
        "pick",
        "pruning",
        "quantised",
        "rotary",
        "swiglu",
        "tiles",
    )
    assert shown >= {f"kernels.{stem}" for stem in stems}
