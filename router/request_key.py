"""Which request is meant: ids are their tenant's own, so that nobody learns of another's by trying them."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

from contracts.types import RequestId, TenantId

__all__ = ["RequestKey"]


class RequestKey(NamedTuple):
    """A request by its tenant and the id that it has there."""

    tenant: TenantId
    id: RequestId

    @property
    def text(self) -> str:
        """For a store. No two keys have the same text: the tenant has no colon in it, so the first one ends it."""
        return f"{quote(self.tenant, safe='')}:{self.id}"

    @classmethod
    def of(cls, text: str) -> RequestKey:
        """The key that has this text."""
        tenant, _, name = text.partition(":")
        return cls(TenantId(unquote(tenant)), RequestId(name))

    def __str__(self) -> str:
        return self.text
