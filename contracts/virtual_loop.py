"""An asyncio event loop whose time jumps to the next timer as soon as every task waits."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")
STALL_AFTER_S = 1.0  # of real time, for a thread that still has to report back


@dataclass(order=True, slots=True)
class _Timer:
    when_s: float
    age: int
    handle: asyncio.TimerHandle = field(compare=False)
    make_ready: Callable[[], asyncio.Handle] = field(compare=False)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Keeps its own timers, ordered by deadline and then by age, on a time that others give.

    The base loop asks its selector to block exactly when nothing is ready to run: that is the moment at which
    virtual time may move. Real sockets and threads work, but time does not wait for them.
    """

    def __init__(self, now_s: Callable[[], float], jump_to: Callable[[float], None]) -> None:
        super().__init__(_JumpingSelector(self._fire_due, self._fire_next))
        self.now_s = now_s
        self._jump_to = jump_to
        self._timers: list[_Timer] = []
        self._ages = itertools.count()
        self._tidy_at = 64

    def time(self) -> float:
        return self.now_s()

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer; the base loop's call_later, sleeps and timeouts all come through here."""
        context = context or copy_context()  # the setter's, not the one that is current when the timer fires
        handle = asyncio.TimerHandle(when, callback, args, self, context)

        def fire() -> None:
            if not handle.cancelled():  # perhaps by an earlier timer of the same moment
                callback(*args)

        make_ready = partial(self.call_soon, fire, context=context)
        heapq.heappush(self._timers, _Timer(when, next(self._ages), handle, make_ready))
        if len(self._timers) > self._tidy_at:  # timeouts that were not needed would pile up until their deadline
            self._timers = [timer for timer in self._timers if not timer.handle.cancelled()]
            heapq.heapify(self._timers)
            self._tidy_at = 2 * len(self._timers) + 64
        return handle

    def _fire_due(self) -> bool:
        """Make the timers ready whose deadline has come, earliest and then oldest first; False if there are none."""
        timers_due = False
        while self._timers and self._timers[0].when_s <= self.now_s():
            timers_due = True
            heapq.heappop(self._timers).make_ready()
        return timers_due

    def _fire_next(self) -> bool:
        """Jump to the earliest deadline and make its timers ready; False if no timer is set."""
        while self._timers and self._timers[0].handle.cancelled():
            heapq.heappop(self._timers)
        if self._timers:
            self._jump_to(self._timers[0].when_s)
        return self._fire_due()


class _JumpingSelector(selectors.SelectSelector):
    """Where another selector would block, time jumps instead."""

    def __init__(self, fire_due: Callable[[], bool], fire_next: Callable[[], bool]) -> None:
        super().__init__()
        self._fire_due = fire_due
        self._fire_next = fire_next

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        has_timers = self._fire_due()  # a virtual computation may have passed deadlines while others were ready
        is_idle = timeout is None or timeout > 0
        if events or has_timers or not is_idle or self._fire_next():
            return events
        events = super().select(STALL_AFTER_S)
        if not events:
            raise RuntimeError("every task waits, no timer is set, and nothing came from outside: nobody can go on")
        return events
