"""`specfleet plan`: which fleet to buy for some traffic."""

from __future__ import annotations

import typer

from specfleet.cli.checkout import run_module

__all__ = ["plan"]


def plan(context: typer.Context) -> None:
    """Recommend a fleet for models, hardware, prices and traffic; --help lists how to say them."""
    run_module("benchmarks.simulator.plan", context.args, command="plan")
