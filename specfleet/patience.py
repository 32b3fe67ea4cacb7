"""How long a client bears with a fleet that it cannot reach."""

from __future__ import annotations

import random
from collections.abc import Callable

from specfleet.errors import ConnectionLost, DeadlineExceeded, Unavailable

__all__ = ["Patience"]

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 5.0
_FAILS_WITHIN_S = 20.0  # a connection to somebody who stands still: 5 s to open, 15 s until pings tell (`channel.py`)


class Patience:
    """Decides, each time a stream is lost, how long to wait before asking again, or that enough is enough.

    The first attempt after progress is made at once, for often only one connection was lost. Later ones wait twice as
    long each time, with jitter, so that a fleet that comes back is not run over by all its clients together.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        *,
        deadline_s: float | None,
        resume_for_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._now_s = now_s
        self._ends_s = None if deadline_s is None else now_s() + deadline_s
        self._resume_for_s = resume_for_s
        self._jitter = jitter
        self._began_s = now_s()
        self._progress = 0
        self._lost_s: float | None = None
        self._num_waits = 0

    def begin(self) -> float | None:
        """An attempt begins now; what is left until the deadline, None without one."""
        self._began_s = self._now_s()
        return self._remaining_s()

    def _remaining_s(self) -> float | None:
        if self._ends_s is None:
            return None
        remaining_s = self._ends_s - self._now_s()
        if remaining_s <= 0.0:
            raise DeadlineExceeded("the deadline passed before the answer was whole; give it more time")
        return remaining_s

    def wait_s(self, error: Unavailable, *, has_begun: bool, progress: int) -> float:
        """Seconds to wait before the next attempt; raises where there shall be none.

        A fleet that was never reached, or that refused, is an error at once: nothing was lost. After a loss every
        refusal is borne with, because a router that comes back may refuse for a while.
        """
        if not has_begun and self._lost_s is None and not isinstance(error, ConnectionLost):
            raise error
        now_s = self._now_s()
        # A request that waits in the queue hears nothing for minutes: a stream that lived so long was there too.
        has_lived = isinstance(error, ConnectionLost) and now_s - self._began_s > _FAILS_WITHIN_S
        if self._lost_s is None or progress > self._progress or has_lived:
            self._lost_s, self._num_waits = now_s, 0
        self._progress = progress
        lost_for_s = now_s - self._lost_s
        if lost_for_s >= self._resume_for_s:
            raise Unavailable(
                f"the stream was lost and could not be resumed for {lost_for_s:.1f} s: {error.message}",
                retry_after_s=error.retry_after_s,
                reason=error.reason,
                details=error.details,
            ) from error
        wait_s = max(self._backoff_s(), error.retry_after_s or 0.0)
        self._num_waits += 1
        remaining_s = self._remaining_s()
        return min(wait_s, self._resume_for_s - lost_for_s, wait_s if remaining_s is None else remaining_s)

    def _backoff_s(self) -> float:
        if self._num_waits == 0:
            return 0.0
        return min(_FIRST_WAIT_S * 2.0 ** (self._num_waits - 1), _LONGEST_WAIT_S) * (0.5 + 0.5 * self._jitter())
