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
    ]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert {name for name, result in results.items() if result.failed} == set()
    shown = {name for name, result in results.items() if result.attempted}
    assert shown >= {"kernels.linear", "kernels.noise", "kernels.norm", "kernels.swiglu"}
