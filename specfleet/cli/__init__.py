"""The command line: one file a command, put together in app.py."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The program `specfleet`."""
    from specfleet.cli.app import app

    app()
