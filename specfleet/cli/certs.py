"""`specfleet certs`: a certificate authority for development, and certificates for each role of a fleet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from specfleet.errors import InvalidRequest
from specfleet.tls import ROLES

__all__ = ["certs"]


def certs(
    folder: Annotated[Path, typer.Argument(help="Where to; each role gets a folder of its own in it.")],
    host: Annotated[
        list[str] | None, typer.Option(help="A name or address of the router, as it is dialled; may be repeated.")
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="Only this role; may be repeated.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="For how long the certificates hold.")] = 90,
) -> None:
    """Make certificates for router, verifiers, drafters, clients and admins.

    For development: production has an authority of its own, such as cert-manager. The first time this makes an
    authority, in the folder ca; later the same authority renews, and what runs takes the new files by itself.
    """
    try:
        from specfleet.cli.authority import Authority
    except ImportError:
        raise InvalidRequest(
            "certificates are made by the package cryptography; pip install 'specfleet[certs]'"
        ) from None
    roles = tuple(role or ROLES)
    if unknown := [name for name in roles if name not in ROLES]:
        raise InvalidRequest(f"--role is {unknown[0]!r}; it must be one of {', '.join(ROLES)}")
    now = datetime.now(UTC)
    authority = Authority.of(folder / "ca", now)
    hosts = tuple(dict.fromkeys([*(host or ()), "localhost", "127.0.0.1", "::1"]))
    for name in roles:
        authority.issue(folder / name, role=name, hosts=hosts, now=now, valid_for=timedelta(days=days))
        print(folder / name)
