"""`specfleet up`: starts a fleet from the checkout or image that this command runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfleet.cli.checkout import check_is_here, run_module
from specfleet.errors import InvalidRequest

__all__ = ["up"]


def up(
    config: Annotated[Path, typer.Option("--config", "-c", help="The fleet's YAML file.")] = Path("fleet.yaml"),
    ray: Annotated[str, typer.Option("--ray", help="Address of an existing Ray cluster; none: a local one.")] = "",
) -> None:
    """Start a fleet: router, verifier and drafters.

    Ctrl-C ends every process that it started.
    """
    check_is_here("cluster", command="up")
    if not config.is_file():
        raise InvalidRequest(f"there is no file {config}; name the fleet's YAML with -c")
    run_module("cluster", ["up", "-c", str(config), *(["--address", ray] if ray else [])], command="up")
