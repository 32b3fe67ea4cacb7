"""Whose processor a simulated worker computes on: one of its own, or one that it shares.

On shared cores work that runs at the same time slows the others down. How much is a `Slowdown`: of the threads of a
piece of work and of all others that run meanwhile. `fair_share` is what a scheduler that gives every thread the same
does to work whose threads wait for each other; `MeasuredSlowdown` is what was measured on a machine
(`benchmarks/simulator/contention.py`), where memory is shared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from benchmarks.simulator.events import Events

__all__ = ["Cores", "MeasuredSlowdown", "OwnCores", "SharedCores", "Slowdown", "fair_share"]

Slowdown = Callable[[int, int], float]
"""(own threads, others' threads) to how many times longer it takes than alone."""

_DONE = 1e-12  # seconds of work that rounding leaves


class Cores(Protocol):
    def run(self, seconds: float, then: Callable[[], None], *, num_threads: int = 1) -> None:
        """Work that takes so long alone; `then` is called when it is done."""
        ...


class OwnCores:
    """Enough for everyone."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def run(self, seconds: float, then: Callable[[], None], *, num_threads: int = 1) -> None:
        self._events.after(seconds, then)


def fair_share(num_cores: int) -> Slowdown:
    """Every thread gets the same part of the cores, and work ends with its slowest thread."""
    return lambda own, others: max((own + others) / num_cores, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSlowdown:
    """`of[own, others]` as measured; between two numbers of others it is linear, beyond the last it goes on like fair
    shares do, in proportion to the threads."""

    of: Mapping[tuple[int, int], float]

    def __call__(self, own: int, others: int) -> float:
        known = sorted((there, slow) for (mine, there), slow in self.of.items() if mine == own)
        if others == 0 or not known:
            return 1.0
        before = (0, 1.0)
        for there, slow in known:
            if there >= others:
                part = (others - before[0]) / (there - before[0])
                return before[1] + part * (slow - before[1])
            before = there, slow
        return before[1] * (own + others) / (own + before[0])


@dataclass(slots=True, eq=False)
class _Work:
    left_s: float
    num_threads: int
    then: Callable[[], None]


class SharedCores:
    """A few cores for all. Work that begins or ends changes how fast the rest goes on."""

    def __init__(self, events: Events, slowdown: Slowdown) -> None:
        self._events, self._slowdown = events, slowdown
        self._running: list[_Work] = []
        self._since_s = 0.0
        self._version = 0

    def run(self, seconds: float, then: Callable[[], None], *, num_threads: int = 1) -> None:
        self._catch_up()
        self._running.append(_Work(seconds, num_threads, then))
        self._plan()

    def _catch_up(self) -> None:
        """What was done since the last change."""
        now_s = self._events.clock.now_s()
        num_threads = sum(work.num_threads for work in self._running)
        for work in self._running:
            work.left_s -= (now_s - self._since_s) / self._slow(work, num_threads)
        self._since_s = now_s

    def _slow(self, work: _Work, num_threads: int) -> float:
        return self._slowdown(work.num_threads, num_threads - work.num_threads)

    def _plan(self) -> None:
        self._version += 1
        if not self._running:
            return
        num_threads = sum(work.num_threads for work in self._running)
        next_s = min(work.left_s * self._slow(work, num_threads) for work in self._running)
        version = self._version
        self._events.after(next_s, lambda: self._end_some(version))

    def _end_some(self, version: int) -> None:
        if version != self._version:
            return
        self._catch_up()
        done = [work for work in self._running if work.left_s <= _DONE]
        self._running = [work for work in self._running if work.left_s > _DONE]
        self._plan()
        for work in done:
            work.then()
