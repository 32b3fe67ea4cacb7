"""One router leads: it holds a lease in the store, and speaks for as long as it can be sure of that.

No clock but our own decides. Whoever wants the lease must see it without a beat for `lease_s` by its own monotonic
clock; the holder counts `lease_s`, less a margin, from before it sent its last beat. The first interval begins after
the second one, so it ends after it too, whatever the clocks of the world do. What remains is what no lease prevents: a
process stopped between looking at its watch and speaking. Its word is then late, and still true, for the target alone
decides tokens; and it can write nothing, for the journal refuses it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from contracts.errors import Unavailable
from router.journal.holder import is_surely_dead, new_holder
from router.journal.journal import Journal, Lease, LeaseLost, StoreLost

__all__ = ["Leadership", "boot_s"]

_log = logging.getLogger(__name__)
_MARGIN = 0.1  # of the lease: clocks that run at different speeds
_BEATS = 4  # in a lease
_LEAST_PAUSE_S = 0.02


def boot_s() -> float:
    """Seconds since the machine started, those in which it slept included, where it tells them."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Leadership:
    """See the module. `attempt` until it leads, then `hold` for as long as it does.

    `continues_when_cut_off`: while the store is away the lease counts as renewed, for nobody can take it from a store
    that is away. That is wrong where only this router has lost the store, and another one stands by.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        lease_s: float,
        continues_when_cut_off: bool = True,
        now_s: Callable[[], float] = boot_s,
        holder: str | None = None,
    ) -> None:
        self._journal, self._lease_s, self._now_s = journal, lease_s, now_s
        self._continues = continues_when_cut_off
        self._holder = holder or new_holder()
        self._valid_s = (1.0 - _MARGIN) * lease_s
        self._owner: str | None = None
        self._until_s = float("-inf")
        self._seen: Lease | None = None
        self._seen_s = 0.0
        self._doubted = asyncio.Event()
        self._settled = asyncio.Event()
        self.lost = asyncio.Event()
        """Set once it led and will never again."""

    @property
    def leads(self) -> bool:
        """Whether it is its turn to speak, as far as it knows."""
        return self._owner is not None and not self.lost.is_set()

    @property
    def owner(self) -> str:
        """By which the journal knows it; LeaseLost when it does not lead."""
        self.check()
        assert self._owner is not None, "checked above"
        return self._owner

    @property
    def is_sure(self) -> bool:
        """Whether nobody else can speak yet."""
        return self.leads and self._now_s() < self._until_s

    def check(self) -> None:
        """Raises LeaseLost where another one leads."""
        if not self.leads:
            raise _not_leading(was_leading=self.lost.is_set())

    async def speak(self) -> None:
        """Returns when it may speak, at once as a rule; LeaseLost when it may never again."""
        while not self.is_sure:
            self.check()
            self.doubt()
            await self._settled.wait()

    def doubt(self) -> None:
        """Something speaks against it: it asks the store now."""
        self._settled.clear()
        self._doubted.set()

    async def attempt(self) -> bool:
        """Takes the lease if it is free, or its holder has given no sign for long enough; whether it leads now."""
        asked_s = self._now_s()
        found = await self._journal.lease()
        if found is not None and found.owner.endswith(f":{self._holder}"):
            return await self._win(found)  # it was ours, and the answer was lost
        if found != self._seen:
            self._seen, self._seen_s = found, self._now_s()
        silent_s = asked_s - self._seen_s
        if found is not None and silent_s < self._lease_s and not is_surely_dead(found.owner):
            return False
        taken = await self._journal.take(found, self._holder)
        return taken is not None and await self._win(taken)

    async def stand_by(self) -> None:
        """Returns when it leads."""
        while True:
            try:
                if await self.attempt():
                    return
            except StoreLost as error:
                _log.warning("standing by: %s", error)
            await asyncio.sleep(max(self._lease_s / _BEATS, _LEAST_PAUSE_S))

    async def hold(self) -> None:
        """Keeps the lease; returns when it is lost for good."""
        while not self.lost.is_set():
            try:
                async with asyncio.timeout(self._lease_s / _BEATS):
                    await self._doubted.wait()
            except TimeoutError:
                pass
            self._doubted.clear()
            if not await self._beat():
                await asyncio.sleep(_LEAST_PAUSE_S)

    async def resign(self) -> None:
        """Lets another one lead at once."""
        if self.leads:
            owner, self._owner = self.owner, None
            try:
                await self._journal.release(owner)
            except StoreLost as error:
                _log.warning("the lease was not given back: %s", error)

    # Inside

    async def _win(self, lease: Lease) -> bool:
        """It is ours; valid from a beat that we know to be ours."""
        asked_s = self._now_s()
        renewed = await self._journal.renew(lease.owner)
        if renewed is None:
            return False
        self._owner, self._until_s = renewed.owner, asked_s + self._valid_s
        self._settled.set()
        return True

    async def _beat(self) -> bool:
        """Renews; whether the store answered."""
        asked_s = self._now_s()
        try:
            async with asyncio.timeout(self._valid_s / 2.0):
                renewed = await self._journal.renew(self.owner)
                if renewed is None and await self._journal.lease() is None:
                    renewed = await self._journal.take(None, self._holder)  # the store came back without its data
        except (StoreLost, TimeoutError):
            if self._continues:
                self._until_s = asked_s + self._valid_s
                self._settled.set()
            return False
        if renewed is None:
            _log.error("another router leads; this one ends what it says")
            self.lost.set()
        else:
            self._owner, self._until_s = renewed.owner, asked_s + self._valid_s
        self._settled.set()
        return True


def _not_leading(*, was_leading: bool) -> Unavailable:
    if was_leading:
        return LeaseLost("another router has taken over; resume there", retry_after_s=0.5)
    return LeaseLost("this router stands by while another one leads; ask that one, or wait", retry_after_s=1.0)
