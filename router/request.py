"""A request that runs, or has ended and is kept for a while."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from contracts.types import RequestId, TenantId
from router.answer import Answer
from router.request_key import RequestKey
from router.sequence import RoutedSequence
from specfleet.tracing import Span

__all__ = ["Choice", "Request"]


@dataclass(slots=True, kw_only=True)
class Choice:
    """One of the answers to a request."""

    sequence: RoutedSequence
    answer: Answer
    is_replayed: bool = False
    """Whether another router said its beginning; nobody knows when, unless it has ended."""
    first_token_s: float = 0.0
    ended_s: float = 0.0
    span: Span | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """See the module. Times are of the router's monotonic clock."""

    id: RequestId
    tenant: TenantId
    mode: str
    model: str
    seed: int
    num_prompt_tokens: int
    choices: list[Choice]
    began_s: float
    deadline: asyncio.TimerHandle | None = None
    abandoned: asyncio.TimerHandle | None = None

    @property
    def key(self) -> RequestKey:
        return RequestKey(self.tenant, self.id)

    @property
    def has_ended(self) -> bool:
        return all(choice.answer.ended is not None for choice in self.choices)
