"""`specfleet keys`: the file of API keys that a router reads."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from specfleet.cli.reporting import reporting
from specfleet.cli.screen import screen, table
from specfleet.errors import AlreadyExists, NotFound
from specfleet.keys import ApiKey, KeyFile, Limits, hash_of, new_key, read_keys, write_keys

__all__ = ["keys"]

keys = typer.Typer(
    name="keys", no_args_is_help=True, help="Make, list and revoke API keys, in the file a router reads."
)

File = Annotated[Path, typer.Argument(help="The key file, as security.api_keys of the fleet names it.")]


def add(
    file: File,
    name: Annotated[str, typer.Argument(help="What this key is called; the file has it once.")],
    tenant: Annotated[str, typer.Option(help="Whose requests come with it.")] = "default",
    role: Annotated[list[str] | None, typer.Option(help="client, admin or metrics; may be repeated.")] = None,
    days: Annotated[int, typer.Option(min=0, max=3650, help="For how long it holds; 0: until it is revoked.")] = 0,
) -> None:
    """Make a key, and show it this once: the file holds its hash alone."""
    found = read_keys(file) if file.exists() else KeyFile()
    if any(known.name == name for known in found.keys):
        raise AlreadyExists(f"{file} has a key {name!r} already; choose another name, or revoke it first")
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds") if days else ""
    key = new_key()
    made = ApiKey(name=name, tenant=tenant, roles=tuple(role or ("client",)), hash=hash_of(key), expires=expires)
    write_keys(file, replace(found, keys=(*found.keys, made)))
    print(key)


def show(file: File) -> None:
    """Show all keys by name, without what would let anyone use them."""
    found = read_keys(file)
    view = table("key", "tenant", "roles", "expires")
    for key in found.keys:
        view.add_row(key.name, key.tenant, ", ".join(key.roles), key.expires or "never")
    screen().print(view)
    for tenant, limits in found.tenants.items():
        print(f"{tenant}: {', '.join(f'{name} {value}' for name, value in asdict(limits).items())}")


def revoke(file: File, name: Annotated[str, typer.Argument(help="Which key.")]) -> None:
    """Take a key out of the file; a router that runs refuses it from the next request on."""
    found = read_keys(file)
    rest = tuple(key for key in found.keys if key.name != name)
    if len(rest) == len(found.keys):
        known = ", ".join(key.name for key in found.keys) or "none"
        raise NotFound(f"{file} has no key {name!r}; its keys are {known}")
    write_keys(file, replace(found, keys=rest))


def limit(
    file: File,
    tenant: Annotated[str, typer.Argument(help="Whose limits.")],
    requests_per_minute: Annotated[int, typer.Option(help="0: as many as there is room for.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="Of prompts and answers together; 0: any.")] = 0,
    max_concurrent: Annotated[int, typer.Option(help="Requests that run or wait at a time; 0: any.")] = 0,
    max_priority: Annotated[int, typer.Option(help="Highest priority that its requests may have.")] = 0,
    weight: Annotated[int, typer.Option(help="Its part of the queue, beside other tenants'.")] = 1,
) -> None:
    """Set how much a tenant may ask for, in place of what was set before."""
    found = read_keys(file)
    limits = Limits(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_concurrent=max_concurrent,
        max_priority=max_priority,
        weight=weight,
    )
    if not any(key.tenant == tenant for key in found.keys):
        raise NotFound(f"{file} has no key of tenant {tenant!r}; add one first")
    write_keys(file, replace(found, tenants={**found.tenants, tenant: limits}))


for _name, _command in (("add", add), ("list", show), ("revoke", revoke), ("limit", limit)):
    keys.command(_name)(reporting(_command))
