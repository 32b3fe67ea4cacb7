"""`specfleet simulate`: a fleet that is not here, on a virtual clock."""

from __future__ import annotations

import typer

from specfleet.cli.checkout import run_module

__all__ = ["simulate"]


def simulate(context: typer.Context) -> None:
    """Simulate a fleet of any size with the service's own routers; --help lists what can be said of it."""
    run_module("benchmarks.simulator", context.args, command="simulate")
