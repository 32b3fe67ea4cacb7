"""Who asks: what is known of the other side of a call while it runs."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from contracts.errors import PermissionDenied
from contracts.types import TenantId

__all__ = ["NOBODY", "Caller", "caller", "check_worker", "enter"]

NOBODY = TenantId("")
"""The tenant of those who show no key, where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose requests come with this call, and by which key; no key where none is asked for. `role` is what a worker's
    certificate says, None where there is no TLS; `certificate` is the names in it, which stay when it is renewed.
    """

    tenant: TenantId = NOBODY
    key: str = ""
    role: str | None = None
    certificate: str = ""


_SOMEONE = Caller()
# A value of the call's own task: the gates set it before a method runs, so that no method can forget to ask.
_CALLER: ContextVar[Caller] = ContextVar("caller", default=_SOMEONE)


def caller() -> Caller:
    """Who asks now."""
    return _CALLER.get()


def check_worker(kind: str) -> None:
    """Refuses a worker whose certificate is another kind's: what a drafter says is believed in nothing, but a verifier
    decides tokens.
    """
    if (role := caller().role) not in (None, kind):
        raise PermissionDenied(f"the certificate is a {role}'s; it must be a {kind}'s to join as one")


def enter(who: Caller) -> None:
    """From here on this task works for them."""
    _CALLER.set(who)
