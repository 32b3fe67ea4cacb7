"""`specfleet drain`: out of service, without losing a request."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from specfleet.admin import Admin
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.screen import printable, screen

__all__ = ["drain"]


def drain(
    worker: Annotated[str, typer.Argument(help="A worker's name, as `specfleet status` shows it; none: all.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the whole fleet is drained.")] = False,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Take a worker or the whole fleet out of service.

    What has begun ends, nothing new begins.
    """
    if not worker and not yes and sys.stdin.isatty():
        typer.confirm("Drain the whole fleet? It will take no new requests.", abort=True)
    with Admin(**Fleet(address, api_key_file, tls).arguments(), timeout_s=30.0) as admin:
        workers = admin.drain(worker)
    names = printable(", ".join(workers)) or "none"
    screen().print(f"draining; workers: {names}", soft_wrap=True)
