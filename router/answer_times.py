"""When a request that comes now would have its answer: how long those before it take, and it itself behind them.

While others wait, the fleet is full, and sequences end at a pace that can be counted; but those that began together end
together, so a few ends say little. Until there are many, the pace is mostly what the cost of a full fleet's rounds, the
time between rounds and the length of recent answers make of it.
"""

from __future__ import annotations

from collections import deque

from contracts.clock import Clock

__all__ = ["AnswerTimes"]

_RECENT = 64  # sequences whose ends say how fast they end
_FADING = 1 / 16  # what one more answer, or round, counts for in what is usual
_LIKE_ENDS = 2  # for how many ends of each that runs the usual pace counts
_BESIDES = 1.25  # some rounds of a full fleet read prompts too


class AnswerTimes:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._ends: deque[float] = deque(maxlen=_RECENT)
        self._waiting_since_s = 0.0
        self._usual_tokens = 0.0
        self._since_s: float | None = None
        self._beside_s = 0.0

    def round_ended(self, busy_s: float, *, goes_on: bool) -> None:
        """A round that computed for so long; whether another follows at once."""
        now_s = self.clock.now_s()
        if self._since_s is not None:
            self._beside_s += (max(now_s - self._since_s - busy_s, 0.0) - self._beside_s) * _FADING
        self._since_s = now_s if goes_on else None

    def interrupted(self) -> None:
        """The target is gone: the time until it is back is between no two rounds."""
        self._since_s = None

    def ended(self, num_tokens: int) -> None:
        """A sequence has said all, in so many tokens."""
        self._usual_tokens += (num_tokens - self._usual_tokens) * (_FADING if self._usual_tokens else 1.0)
        if len(self._ends) == _RECENT:
            self._waiting_since_s = self._ends[0]
        self._ends.append(self.clock.now_s())

    def somebody_waits(self) -> None:
        """From here on ends count."""
        if not self._ends:
            self._waiting_since_s = self.clock.now_s()

    def nobody_waits(self) -> None:
        """From here on the pace is that of those who come, not of the fleet."""
        self._ends.clear()

    def answered_in_s(self, num_before: int, *, num_running: int, round_s: float, num_together: int) -> float:
        """Of a sequence behind so many that wait and so many that run, in a fleet that computes rounds of `round_s` for
        `num_together` of them when it is full; 0 where no answer was seen yet."""
        usual_s = _BESIDES * self._usual_tokens * (round_s + self._beside_s) / num_together
        num_usual, num_seen = _LIKE_ENDS * num_together, len(self._ends)
        seen_s = self._ends[-1] - self._waiting_since_s if self._ends else 0.0
        return (num_before + num_running + 1) * (num_usual * usual_s + seen_s) / (num_usual + num_seen)
