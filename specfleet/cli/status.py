"""`specfleet status`: the fleet at a glance."""

from __future__ import annotations

from typing import Annotated

import typer

from specfleet.admin import Admin
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.screen import screen
from specfleet.cli.views import drafters_table, headline, verifier_table

__all__ = ["status"]


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Show the fleet: verifier, drafters and rates."""
    with Admin(**Fleet(address, api_key_file, tls).arguments(), timeout_s=10.0) as admin:
        now = admin.status()
    if as_json:
        from google.protobuf.json_format import MessageToJson

        print(MessageToJson(now, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
        return
    console = screen()
    console.print(headline(now), "", verifier_table(now.verifier), "", sep="\n")
    if now.drafters:
        console.print(drafters_table(now.drafters, {}, width=console.width))
    else:
        console.print("no drafter has joined: every token is the target's own")
