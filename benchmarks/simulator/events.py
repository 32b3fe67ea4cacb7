"""What happens when: a queue of moments on a virtual clock. The same calls in the same order give the same run."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from contracts.clock import VirtualClock

__all__ = ["Events"]


class Events:
    """Time moves from one event to the next."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._num_made = 0

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Of events at the same moment the one that was made first comes first."""
        heapq.heappush(self._queue, (self.clock.now_s() + max(seconds, 0.0), self._num_made, do))
        self._num_made += 1

    def next(self) -> bool:
        """Lets the next event happen; False where there is none."""
        if not self._queue:
            return False
        when_s, _, do = heapq.heappop(self._queue)
        self.clock.advance(max(when_s - self.clock.now_s(), 0.0))
        do()
        return True
