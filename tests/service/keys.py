"""API keys for tests with several tenants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specfleet.keys import ApiKey, KeyFile, hash_of, new_key, write_keys

__all__ = ["keys_of"]


def keys_of(file: Path, *tenants: str) -> Mapping[str, str]:
    """A key for each, the last one of an operator."""
    keys = {tenant: new_key() for tenant in tenants}
    roles = {tenants[-1]: ("client", "admin")}
    write_keys(
        file,
        KeyFile(
            keys=tuple(
                ApiKey(name=tenant, tenant=tenant, roles=roles.get(tenant, ("client",)), hash=hash_of(key))
                for tenant, key in keys.items()
            )
        ),
    )
    return keys
