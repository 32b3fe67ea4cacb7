"""`specfleet timeline`: who worked when, for Perfetto, and how well the work overlaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from specfleet.admin import Admin
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.overlap import overlap_of
from specfleet.cli.reporting import fail
from specfleet.cli.screen import duration, notices, percent, screen
from specfleet.cli.trace import trace

__all__ = ["timeline"]


def timeline(
    out: Annotated[Path, typer.Argument(help="The file to write; https://ui.perfetto.dev opens it.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to look.")] = 10.0,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Record what all processes do, and write a trace of it."""
    with (
        Admin(**Fleet(address, api_key_file, tls).arguments()) as admin,
        notices().status(f"looking for {duration(seconds)}"),
    ):
        spans = list(admin.timeline(seconds))
    try:
        out.write_text(json.dumps(trace(spans)), encoding="utf-8")
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}", code=2)
    console = screen()
    console.print(f"{len(spans)} spans in {out}", soft_wrap=True)
    if not spans:
        console.print("nothing ran meanwhile; look again while requests do")
        return
    overlap = overlap_of(spans)
    if overlap.hidden_share is not None:
        drafting = duration(overlap.drafting_s)
        console.print(f"drafting hidden behind verification: {percent(overlap.hidden_share)} of {drafting}")
    if overlap.idle_share is not None:
        console.print(f"verifier idle: {percent(overlap.idle_share)} of {duration(overlap.seen_s)}")
