"""Runs a scheduler inside an event loop: a tick after every event, and when it asked to be called again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from router.metrics.histogram import MOMENT_S, Histogram
from router.scheduler import Scheduler

__all__ = ["SchedulingLoop"]

_log = logging.getLogger(__name__)
_RETRY_S = 0.2  # after a tick that failed: whatever else happens meanwhile waits, and the log is not flooded


class SchedulingLoop:
    """`poke` after every event that the scheduler was told of. `on_tick` hears when a tick that sent a round began and
    ended."""

    def __init__(self, scheduler: Scheduler, *, on_tick: Callable[[float, float], None] | None = None) -> None:
        self.scheduler = scheduler
        self._on_tick = on_tick or (lambda began_s, ended_s: None)
        self.tick_s = Histogram(MOMENT_S)
        """CPU time of each tick."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called after a tick that left nothing to do; it may submit something."""
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy_s(self) -> float:
        """CPU time that ticks took since the start."""
        return self.tick_s.sum

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
        began_s, wall_s = time.thread_time(), self.scheduler.clock.wall_s()
        num_sent = self.scheduler.num_sent
        try:
            after_s = self.scheduler.tick()
        except Exception:  # noqa: BLE001  # without another tick all would stand still, and the next may go well
            _log.exception("a tick of the scheduler failed; the next follows in %s s", _RETRY_S)
            self._is_due = True
            asyncio.get_running_loop().call_later(_RETRY_S, self._tick)
            return
        self.tick_s.observe(time.thread_time() - began_s)
        if self.scheduler.num_sent > num_sent:
            self._on_tick(wall_s, self.scheduler.clock.wall_s())
        if not (self.scheduler.running or self.scheduler.waiting):
            self.on_idle()
            if self.scheduler.waiting:
                self.poke()
        if after_s is not None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._tick)
