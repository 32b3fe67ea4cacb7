"""Certificates as `specfleet certs` makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from specfleet.cli.authority import Authority
from specfleet.tls import ROLES

HOSTS = ("localhost", "127.0.0.1")


def make(folder: Path, *more_roles: str) -> Path:
    """A folder for each role, signed by the authority in the folder's own `ca`."""
    now = datetime.now(UTC)
    authority = Authority.of(folder / "ca", now)
    for role in (*ROLES, *more_roles):
        authority.issue(folder / role, role=role, hosts=HOSTS, now=now, valid_for=timedelta(days=1))
    return folder
