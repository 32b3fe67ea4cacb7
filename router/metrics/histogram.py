"""Counting values by size, between two rounds: one place in a list, no lock, and nothing for whoever reads later."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

__all__ = ["LATENCY_S", "MOMENT_S", "NUM_NODES", "Histogram", "buckets_of"]

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
"""Bounds for what clients wait for."""
MOMENT_S = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Bounds for what happens inside a round. No time at all is a value of its own: nothing was waited for."""
NUM_NODES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Bounds for sizes of frontiers."""


class Histogram:
    """How many values were at most as large as each bound, and what they add up to."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def num(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """In Prometheus' form: under each bound, all that are not above it."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


def buckets_of(counts: Mapping[int, int], bounds: Sequence[float]) -> Histogram:
    """Of values that were counted one by one."""
    made = Histogram(bounds)
    for value, count in counts.items():
        made._counts[bisect_left(made._bounds, value)] += count
        made.sum += value * count
    return made
