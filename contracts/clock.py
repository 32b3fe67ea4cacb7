"""Time as a parameter: the system's own, or a virtual one on which an hour passes in a moment.

Code that waits or measures takes a `Clock`. Given a `VirtualClock`, the same code runs under `VirtualClock.run`, in
which time moves only when every task waits, and then jumps to the next deadline. What happens, and in which order,
then depends on the code alone, never on the machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from contracts.virtual_loop import VirtualLoop

T = TypeVar("T")


class Clock(Protocol):
    """What tells the time and waits."""

    def now_s(self) -> float:
        """Seconds since some fixed moment; never goes back. For durations and deadlines."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970, as the world counts; may jump. For records that people read."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long; nothing or less only lets others run."""
        ...


class SystemClock:
    """The time of this machine."""

    def now_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class VirtualClock:
    """A time that moves only when told to, or when everything under `run` waits for it."""

    def __init__(self, *, start_s: float = 0.0, wall_start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._wall_offset_s = wall_start_s - start_s

    def now_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._now_s + self._wall_offset_s

    def advance(self, seconds: float) -> None:
        """Let time pass without letting anyone run, as a computation of that length would."""
        if not 0.0 <= seconds < float("inf"):
            raise ValueError(f"cannot advance by {seconds} s; time goes forward, by a finite number of seconds")
        self._now_s += seconds

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if not (isinstance(loop, VirtualLoop) and loop.now_s == self.now_s):
            raise RuntimeError("sleeping on a virtual clock outside its run(): nothing would ever move it")
        await asyncio.sleep(seconds)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """The result of `main`, run on an event loop whose time is this clock's.

        asyncio's own timers (`asyncio.sleep`, `asyncio.timeout`, `call_later`) follow this clock too. Timers with
        the same deadline fire in the order in which they were set.
        """
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self.now_s, self._jump_to)) as runner:
            return runner.run(main)

    def _jump_to(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
