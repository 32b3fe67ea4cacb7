"""Runs a scheduler inside an event loop: a tick after every event, and when it asked to be called again."""

from __future__ import annotations

import asyncio
import time

from router.scheduler import Scheduler

__all__ = ["SchedulingLoop"]


class SchedulingLoop:
    """`poke` after every event that the scheduler was told of."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.busy_s = 0.0
        """CPU time that ticks took since the start."""
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    def poke(self) -> None:
        """Something happened. Several pokes before the loop comes around are one tick."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._tick)

    def _tick(self) -> None:
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        began_s = time.thread_time()
        after_s = self.scheduler.tick()
        self.busy_s += time.thread_time() - began_s
        if after_s is not None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._tick)
