"""Who may call what. One table for certificates and keys; what is not in it is refused.

A certificate says what a process is, and a key whose requests it brings. gRPC asks for the first wherever there is TLS,
and for the second where there are keys; HTTP for keys alone, since its clients have no certificates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from contracts.errors import PermissionDenied, SpecfleetError, Unauthenticated
from contracts.types import TenantId
from router.security.caller import Caller
from router.security.keyring import KeyRing
from specfleet.keys import ApiKey

__all__ = ["ADMIN", "FLEET", "INFERENCE", "METRICS", "Gate"]

INFERENCE, ADMIN, FLEET = "specfleet.v1.Inference", "specfleet.v1.Admin", "specfleet.v1.Fleet"
METRICS = "metrics"
_MAY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        INFERENCE: frozenset({"client", "admin"}),
        ADMIN: frozenset({"admin"}),
        FLEET: frozenset({"verifier", "drafter"}),
        METRICS: frozenset({"metrics", "admin"}),
    }
)


class Gate:
    """See the module. `keys` None: nobody is asked for one."""

    def __init__(self, keys: KeyRing | None = None) -> None:
        self.keys = keys
        self.turned_away: Counter[str] = Counter()
        """Calls, by the kind of error."""

    def enter_grpc(self, service: str, role: str | None, authorization: str) -> Caller:
        """Lets a call in, or not. `role` is what the certificate says, and None where there is no TLS."""
        with self._counting():
            return self._enter(service, role, authorization)

    def enter_http(self, service: str, authorization: str) -> Caller:
        """The same where nobody shows a certificate."""
        with self._counting():
            return self._with_key(self._may(service), service, self._key(authorization))

    @contextmanager
    def _counting(self) -> Iterator[None]:
        try:
            yield
        except SpecfleetError as error:
            self.turned_away[type(error).__name__] += 1
            raise

    def _enter(self, service: str, role: str | None, authorization: str) -> Caller:
        may = self._may(service)
        if service == FLEET:
            self._check_role(may, service, role)
            return Caller(role=role)
        key = self._key(authorization)
        if service == ADMIN:
            if role in may or (key is not None and may & set(key.roles)) or (role is None and self.keys is None):
                return _caller(key)
            raise PermissionDenied(f"{service} is for admins; call it with an admin's certificate or key")
        self._check_role(may, service, role)
        return self._with_key(may, service, key)

    def _may(self, service: str) -> frozenset[str]:
        if (may := _MAY.get(service)) is None:
            raise PermissionDenied("this service is closed")
        return may

    def _check_role(self, may: Collection[str], service: str, role: str | None) -> None:
        if role is not None and role not in may:
            raise PermissionDenied(
                f"the certificate is a {role or 'stranger'}'s; {service} is for {' and '.join(sorted(may))}"
            )

    def _with_key(self, may: frozenset[str], service: str, key: ApiKey | None) -> Caller:
        if self.keys is None:
            return Caller()
        if key is None:
            raise Unauthenticated("an API key is missing; send it as authorization: Bearer KEY")
        if not may & set(key.roles):
            raise PermissionDenied(
                f"key {key.name} is for {', '.join(key.roles)}; {service} is for {' and '.join(sorted(may))}"
            )
        return _caller(key)

    def _key(self, authorization: str) -> ApiKey | None:
        """The key that was sent, or None for none. One that nobody knows is refused, and never shown."""
        if self.keys is None or not authorization:
            return None
        scheme, _, sent = authorization.partition(" ")
        found = self.keys.find(sent.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Unauthenticated("the API key is unknown, or holds no longer; send one as authorization: Bearer KEY")
        return found


def _caller(key: ApiKey | None) -> Caller:
    return Caller() if key is None else Caller(tenant=TenantId(key.tenant), key=key.name)
