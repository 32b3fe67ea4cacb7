"""API keys at rest: a JSON file that holds of each key its hash, and what its holder may do.

A key is 256 random bits, so one round of SHA-256 is the right hash: nobody can try them all, however fast a try is.
Slow hashes (Argon2, scrypt) are for passwords, which people choose from a few billion; here they would only let anyone
make the router work hard by sending wrong keys.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from specfleet.errors import InvalidRequest

__all__ = ["KEY_ROLES", "ApiKey", "KeyFile", "Limits", "hash_of", "new_key", "read_keys", "write_keys"]

KEY_ROLES = ("client", "admin", "metrics")
MAX_KEYS = 10_000
MAX_KEY_LENGTH = 256
_VERSION = 1
_MAX_LIMIT = 2**31 - 1
_NAME = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key. `tenant` is whose requests come with it; `expires` is a moment in ISO 8601 with its zone, or none."""

    name: str
    tenant: str
    roles: tuple[str, ...]
    hash: str
    expires: str = ""

    def __post_init__(self) -> None:
        for what, name in (("name", self.name), ("tenant", self.tenant)):
            _check(_matches(_NAME, name), what, name, _NAME_HELP)
        known = f"some of {', '.join(KEY_ROLES)}"
        _check(bool(self.roles) and set(self.roles) <= set(KEY_ROLES), "roles", self.roles, known)
        if not _matches(_HASH, self.hash):  # not shown: it might be a key itself
            raise InvalidRequest(f"hash of key {self.name} is no SHA-256; it is 64 of the characters 0-9 and a-f")
        _check(not self.expires or _moment(self.expires) is not None, "expires", self.expires, _MOMENT_HELP)

    def has_expired(self, now_s: float) -> bool:
        """Whether it is of no use any more, `now_s` seconds after 1970."""
        moment = _moment(self.expires) if self.expires else None
        return moment is not None and moment.timestamp() <= now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one tenant may ask for; 0: as much as there is. `weight` is its part of a queue that others wait in, and
    `max_priority` the highest that its requests may have: beside other tenants' a priority is a privilege.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0
    max_priority: int = 0
    weight: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least, most = (1, 1000) if name == "weight" else (0, _MAX_LIMIT)
            is_right = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
            _check(is_right, name, value, f"an integer from {least} to {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """All keys, and the limits of the tenants that have some."""

    keys: tuple[ApiKey, ...] = ()
    tenants: Mapping[str, Limits] = field(default_factory=dict)

    def find(self, key: str, now_s: float) -> ApiKey | None:
        """The one that this key is, unless it has expired. Takes as long for each key, known or not."""
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            return None
        presented, found = hash_of(key), None
        for known in self.keys:
            if hmac.compare_digest(presented, known.hash):
                found = known
        return None if found is None or found.has_expired(now_s) else found


def new_key() -> str:
    """256 random bits, with a beginning by which scanners of source code know it for a secret."""
    return f"sfk_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", errors="replace")).hexdigest()


def read_keys(file: Path) -> KeyFile:
    """All of a file that makes sense as a whole; InvalidRequest names the first thing that does not."""
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}; `specfleet keys add` makes it") from None
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{file} is not JSON; it must be as `specfleet keys add` makes it") from None
    try:
        return _keys(found)
    except InvalidRequest as error:
        raise InvalidRequest(f"{file}: {error.message}") from None


def write_keys(file: Path, keys: KeyFile) -> None:
    """Whole or not at all, readable for its owner alone."""
    if len(keys.keys) > MAX_KEYS:
        raise InvalidRequest(f"{file} would hold {len(keys.keys)} keys; it may hold {MAX_KEYS}, so revoke some first")
    content = {
        "version": _VERSION,
        "keys": [asdict(key) for key in keys.keys],
        "tenants": {tenant: asdict(limits) for tenant, limits in keys.tenants.items()},
    }
    draft = file.with_name(f"{file.name}.new")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            json.dump(content, out, indent=2)
            out.write("\n")
        draft.replace(file)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be written: {error.strerror}") from None


_NAME_HELP = "1 to 63 of the characters a-z, 0-9, - and _"
_MOMENT_HELP = "a moment such as 2027-01-31T00:00:00+00:00"


def _keys(found: Any) -> KeyFile:
    _fields(found, "the file", {"version", "keys", "tenants"})
    _check(found.get("version") == _VERSION, "version", found.get("version"), str(_VERSION))
    keys, tenants = found.get("keys", []), found.get("tenants", {})
    _check(isinstance(keys, list) and len(keys) <= MAX_KEYS, "keys", type(keys), f"a list of at most {MAX_KEYS}")
    _check(
        isinstance(tenants, dict) and all(map(_NAME.fullmatch, tenants)), "tenants", type(tenants), "names to limits"
    )
    made = KeyFile(
        keys=tuple(_key(key) for key in keys),
        tenants={tenant: Limits(**_fields(of, tenant, set(Limits.__slots__))) for tenant, of in tenants.items()},
    )
    names = [key.name for key in made.keys]
    _check(len(set(names)) == len(names), "keys", "two of one name", "names that are different")
    return made


def _key(found: Any) -> ApiKey:
    fields = _fields(found, "a key", set(ApiKey.__slots__))
    missing = {"name", "tenant", "roles", "hash"} - set(fields)
    _check(not missing, "a key", f"without {', '.join(sorted(missing))}", "whole")
    roles = fields["roles"]
    _check(isinstance(roles, list) and all(isinstance(role, str) for role in roles), "roles", roles, "a list of names")
    return ApiKey(**{**fields, "roles": tuple(roles)})


def _fields(found: Any, what: str, known: set[str]) -> dict[str, Any]:
    """A mapping without keys that nobody knows."""
    _check(isinstance(found, dict), what, type(found).__name__, "a mapping")
    unknown: Sequence[str] = sorted(set(found) - known)
    _check(not unknown, what, f"with {', '.join(unknown)[:80]}", f"of {', '.join(sorted(known))} only")
    return dict(found)


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check(is_right: bool, what: str, value: object, right: str) -> None:
    if not is_right:
        raise InvalidRequest(f"{what} is {ascii(value)[:80]}; it must be {right}")
