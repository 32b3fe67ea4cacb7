"""The command line: one file a command, put together in app.py."""

from __future__ import annotations

import sys
from io import TextIOWrapper

__all__ = ["main"]


def main() -> None:
    """The program `specfleet`."""
    from specfleet.cli.app import app

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a screen that has not all letters shows the others
    app()
