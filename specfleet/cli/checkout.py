"""Commands that are more than a client: they run what a checkout or an image has and the wheel has not."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from specfleet.errors import InvalidRequest

__all__ = ["check_is_here", "run_module"]


def check_is_here(module: str, *, command: str) -> None:
    """Refuses where only the client is installed."""
    room = module.partition(".")[0]
    if not Path(room, "__init__.py").is_file() and importlib.util.find_spec(room) is None:
        raise InvalidRequest(
            f"this is the client alone, which cannot do that; run `specfleet {command}` in a checkout of specfleet "
            "after `make setup`, or in its image"
        )


def run_module(module: str, arguments: Sequence[str], *, command: str) -> NoReturn:
    """In place of this process: signals then reach what does the work."""
    check_is_here(module, command=command)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
