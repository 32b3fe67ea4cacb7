"""`python -m specfleet.cli`, where the program `specfleet` is not installed."""

from __future__ import annotations

from specfleet.cli import main

main()
