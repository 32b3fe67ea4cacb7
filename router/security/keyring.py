"""The API keys that a router knows, read again when their file changes."""

from __future__ import annotations

import logging
from pathlib import Path

from contracts.clock import Clock
from contracts.errors import ConfigError
from contracts.types import TenantId
from specfleet.errors import InvalidRequest
from specfleet.keys import ApiKey, KeyFile, Limits, read_keys

__all__ = ["KeyRing"]

_log = logging.getLogger(__name__)


class KeyRing:
    """See the module. A file that makes no sense any more leaves what was known, and is told once in the log."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file, self._clock = file, clock
        self._stamp = self._stamp_now()
        try:
            self._known = read_keys(file)
        except InvalidRequest as error:
            raise ConfigError(f"security.api_keys: {error.message}") from error

    def find(self, key: str) -> ApiKey | None:
        """What this key is, if it is one and holds still."""
        return self._now().find(key, self._clock.wall_s())

    def limits(self, tenant: TenantId) -> Limits:
        """How much a tenant may ask for."""
        return self._now().tenants.get(tenant, _NO_LIMITS)

    @property
    def has_many_tenants(self) -> bool:
        """Whether tenants stand in each other's way at all."""
        return len({key.tenant for key in self._now().keys}) > 1

    def _now(self) -> KeyFile:
        if (stamp := self._stamp_now()) != self._stamp:
            self._stamp = stamp
            try:
                self._known = read_keys(self._file)
                _log.info("%d API keys from %s", len(self._known.keys), self._file)
            except InvalidRequest as error:
                _log.warning("the API keys stay as they were: %s", error.message)
        return self._known

    def _stamp_now(self) -> object:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


_NO_LIMITS = Limits()
