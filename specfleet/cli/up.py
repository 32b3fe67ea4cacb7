"""`specfleet up`: starts a fleet from the checkout or image that this command runs in."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from specfleet.errors import InvalidRequest

__all__ = ["up"]


def up(
    config: Annotated[Path, typer.Option("--config", "-c", help="The fleet's YAML file.")] = Path("fleet.yaml"),
    ray: Annotated[str, typer.Option("--ray", help="Address of an existing Ray cluster; none: a local one.")] = "",
) -> None:
    """Start a fleet: router, verifier and drafters.

    Ctrl-C ends every process that it started.
    """
    if not Path("cluster", "__main__.py").is_file() and importlib.util.find_spec("cluster") is None:
        raise InvalidRequest(
            "this is the client alone, which has no fleet in it; run `specfleet up` in a checkout of specfleet after "
            "`make setup`, or in its image"
        )
    if not config.is_file():
        raise InvalidRequest(f"there is no file {config}; name the fleet's YAML with -c")
    command = [sys.executable, "-m", "cluster", "up", "-c", str(config), *(["--address", ray] if ray else [])]
    # In place of this process: signals then reach the one that started everything.
    os.execv(sys.executable, command)
