"""How fast a drafter is just now, from the steps it reports: time of a step alone, and what each more sequence adds."""

from __future__ import annotations

from collections import deque
from statistics import median

from contracts.errors import InvalidArgument

__all__ = ["DrafterSpeed"]


class DrafterSpeed:
    """Medians over the last steps: a hiccup changes nothing, and a drafter that slowed down is known as such after half
    a window, which is what re-ranking waits for. A step is compared with the steps of its own batch size only."""

    __slots__ = ("_by_batch", "_known", "_recent")

    def __init__(self, *, window: int = 15) -> None:
        if window < 1:
            raise InvalidArgument(f"the window is {window} steps; it is 1 or more")
        self._recent: deque[tuple[int, float]] = deque(maxlen=window)
        self._by_batch: deque[tuple[int, float]] = deque(maxlen=8 * window)
        self._known: tuple[float, float] | None = None  # step_s and crowding, until another step is observed

    def observe(self, *, num_sequences: int, elapsed_s: float) -> None:
        """One draft step of a batch."""
        if num_sequences < 1 or not 0.0 < elapsed_s < float("inf"):
            raise InvalidArgument(f"a draft step of {num_sequences} sequences took {elapsed_s} s; both are above 0")
        self._recent.append((num_sequences, elapsed_s))
        self._by_batch.append((num_sequences, elapsed_s))
        self._known = None

    def __bool__(self) -> bool:
        """Whether anything was observed."""
        return bool(self._recent)

    @property
    def crowding(self) -> float:
        """By what part of a step alone each more sequence lengthens it: the median over pairs of batch sizes seen."""
        return self._measured()[1] if self._recent else 0.0

    @property
    def step_s(self) -> float:
        """Of a step alone; asking before anything was observed is a mistake of the caller."""
        if not self._recent:
            raise InvalidArgument("nothing is known of this drafter's speed yet; observe a step first")
        return self._measured()[0]

    def _measured(self) -> tuple[float, float]:
        """Asked far more often than steps are observed, so it is kept."""
        if self._known is None:
            crowding = self._crowding()
            step_s = median(elapsed_s / (1.0 + crowding * (num - 1)) for num, elapsed_s in self._recent)
            self._known = step_s, crowding
        return self._known

    def _crowding(self) -> float:
        steps = self._medians()
        slopes = [
            (later - sooner) / (more - fewer)
            for index, (fewer, sooner) in enumerate(steps)
            for more, later in steps[index + 1 :]
        ]
        if not slopes:
            return 0.0
        slope = max(median(slopes), 0.0)
        fewest, time = steps[0]
        alone = max(time - slope * (fewest - 1), 0.1 * time)
        return slope / alone

    def _medians(self) -> list[tuple[int, float]]:
        by_batch: dict[int, list[float]] = {}
        for num, elapsed_s in self._by_batch:
            by_batch.setdefault(num, []).append(elapsed_s)
        return [(num, median(times)) for num, times in sorted(by_batch.items())]
