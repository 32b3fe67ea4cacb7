"""How much each tenant may ask for: requests and tokens a minute, requests at a time, and its part of the queue.

Rates are token buckets that hold a minute's worth. An answer's tokens are paid for when it has ended, for nobody knows
before how long it will be; a tenant that owes tokens is refused until the debt is gone. So a tenant gets its rate over
time, and is ahead of it by no more than what it has at work, which `max_concurrent` bounds.

In a queue that several tenants share, each may wait with as many as there are places still free (times its weight): one
tenant alone takes half of it, two a third each, and there is always room for another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from contracts.clock import Clock
from contracts.errors import PermissionDenied, QuotaExceeded
from contracts.types import RequestId, TenantId
from specfleet.keys import Limits

__all__ = ["Quotas"]

_LATER_S = 1.0  # when to ask again for what becomes free at no time that is known


@dataclass(slots=True)
class _Bucket:
    """What is left of a rate; below zero it is owed. `at_s` is when it was looked at."""

    left: float
    at_s: float

    def refill(self, per_minute: int, now_s: float) -> None:
        """Without a rate nothing is saved up or owed, so that one set later begins at once and from nothing."""
        self.left = min(self.left + (now_s - self.at_s) * per_minute / 60.0, float(per_minute)) if per_minute else 0.0
        self.at_s = now_s


@dataclass(slots=True, kw_only=True)
class _Account:
    requests: _Bucket
    tokens: _Bucket
    coming: set[RequestId] = field(default_factory=set)
    running: set[RequestId] = field(default_factory=set)
    """Those that come are among them."""


class Quotas:
    """See the module. Without `limits_of` there are none."""

    def __init__(
        self,
        clock: Clock,
        limits_of: Callable[[TenantId], Limits] | None = None,
        *,
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock, self._limits_of, self._is_shared = clock, limits_of, is_shared
        self._accounts: dict[TenantId, _Account] = {}

    def weight(self, tenant: TenantId) -> int:
        """Its part of a queue that others wait in."""
        return self._limits_of(tenant).weight if self._limits_of is not None else 1

    def check(
        self,
        tenant: TenantId,
        *,
        priority: int = 0,
        waiting: Collection[TenantId] = (),
        num_choices: int = 1,
        max_waiting: int = 0,
    ) -> None:
        """Refuses a request that would be too much now, and says when to ask again. `waiting`: whose sequences wait."""
        if self._limits_of is None:
            return
        limits = self._limits_of(tenant)
        if priority > limits.max_priority:
            raise PermissionDenied(f"priority is {priority}; tenant {tenant} may ask for {limits.max_priority} at most")
        if self._is_shared():
            self._check_queue(tenant, limits, waiting, num_choices, max_waiting)
        account = self._account(tenant, limits)
        if limits.max_concurrent and len(account.running) >= limits.max_concurrent:
            raise _exceeded(tenant, f"{limits.max_concurrent} requests at a time", _LATER_S)
        if limits.requests_per_minute and account.requests.left < 1.0:
            after_s = (1.0 - account.requests.left) * 60.0 / limits.requests_per_minute
            raise _exceeded(tenant, f"{limits.requests_per_minute} requests a minute", after_s)
        if limits.tokens_per_minute and account.tokens.left <= 0.0:
            after_s = (1.0 - account.tokens.left) * 60.0 / limits.tokens_per_minute
            raise _exceeded(tenant, f"{limits.tokens_per_minute} tokens a minute", after_s)

    def let_in(self, tenant: TenantId, request: RequestId, num_prompt_tokens: int) -> None:
        """A request that was not refused, in that very moment: it has its place before it is written down, so that many
        at once find no more room than there is.
        """
        if self._limits_of is None:
            return
        account = self._account(tenant, self._limits_of(tenant))
        if request not in account.running:
            account.running.add(request)
            account.coming.add(request)
            account.requests.left -= 1.0
            account.tokens.left -= num_prompt_tokens

    def begin(self, tenant: TenantId, request: RequestId, num_prompt_tokens: int) -> None:
        """It is among those that wait, or run; also one that another router let in."""
        self.let_in(tenant, request, num_prompt_tokens)
        if (account := self._accounts.get(tenant)) is not None:
            account.coming.discard(request)

    def end(self, tenant: TenantId, request: RequestId, num_tokens: int) -> None:
        """It has ended, with so many tokens. Told twice, it counts once."""
        account = self._accounts.get(tenant)
        if account is not None and request in account.running:
            account.running.remove(request)
            account.coming.discard(request)
            account.tokens.left -= num_tokens

    def _check_queue(
        self, tenant: TenantId, limits: Limits, waiting: Collection[TenantId], num_choices: int, max_waiting: int
    ) -> None:
        mine, num_coming = self._accounts.get(tenant), sum(len(of.coming) for of in self._accounts.values())
        num_mine = sum(other == tenant for other in waiting) + (len(mine.coming) if mine is not None else 0)
        room = limits.weight * (max_waiting - len(waiting) - num_coming)
        if num_mine and num_mine + num_choices > room:
            raise _exceeded(tenant, f"its part of the queue, where {num_mine} of its sequences wait", _LATER_S)

    def _account(self, tenant: TenantId, limits: Limits) -> _Account:
        now_s = self._clock.now_s()
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(
                requests=_Bucket(limits.requests_per_minute, now_s), tokens=_Bucket(limits.tokens_per_minute, now_s)
            )
        account.requests.refill(limits.requests_per_minute, now_s)
        account.tokens.refill(limits.tokens_per_minute, now_s)
        return account


def _exceeded(tenant: TenantId, what: str, after_s: float) -> QuotaExceeded:
    return QuotaExceeded(f"tenant {tenant} has used up {what}; try again later", retry_after_s=after_s)
