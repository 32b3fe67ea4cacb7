"""Whether a drafter has fallen silent: since when it owes a word, and for how long it is then given nothing.

Owing is for each sequence, so that what is taken back is owed no more; and reading a long prompt is no silence.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.types import SequenceId
from router.orders import DrafterOrders

__all__ = ["Silence"]

_SILENT_S = 1.0  # longer than any honest drafter needs for a word, once it has read the prompts
_READS_SLOWLY = 2.0  # by what factor it may be slower at that than it was when nobody else was at work
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 600.0  # for which who was silent is given nothing


class Silence:
    """Of one drafter. `now`: a round went without what it should have said, and it has said nothing since, so nobody
    waits for it."""

    __slots__ = (
        "_owed_before_s",
        "_owes_since_s",
        "_pause_s",
        "_paused_until_s",
        "_prefill_s_per_token",
        "_reading_s",
        "_reads_until_s",
        "now",
    )

    def __init__(self, *, prefill_s_per_token: float) -> None:
        self.now = False
        self._prefill_s_per_token = prefill_s_per_token
        # Sequences that it has something to say about, if only that it has nothing to say; the oldest first.
        self._owes_since_s: dict[SequenceId, float] = {}
        # How long it owed, before that, something that was taken back; since it spoke last.
        self._owed_before_s = 0.0
        # What of its silence may be due to prompts that it was given to read, and when it should be through with them.
        self._reading_s, self._reads_until_s = 0.0, 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._paused_until_s: float | None = None

    @property
    def is_paused(self) -> bool:
        return self._paused_until_s is not None

    def spoke(self, now_s: float) -> None:
        """Whatever it said, it is there."""
        self.now, self._pause_s, self._paused_until_s = False, _FIRST_PAUSE_S, None
        self._owed_before_s, self._reading_s = 0.0, max(self._reads_until_s - now_s, 0.0)
        self._owes_since_s.clear()

    def let_off(self, sequence: SequenceId, now_s: float) -> None:
        """It has nothing to say about this one any more. What it did not say until now counts all the same."""
        oldest_s = self._oldest_s(now_s)
        self._owes_since_s.pop(sequence, None)
        self._owed_before_s += self._oldest_s(now_s) - oldest_s

    def told(self, orders: DrafterOrders, drafts_for: Mapping[SequenceId, bool], now_s: float) -> None:
        """Its orders leave: to wishes, and tokens of sequences that it drafts for, it has something to say."""
        read_s = _READS_SLOWLY * sum(len(opened.tokens) for opened in orders.open) * self._prefill_s_per_token
        self._reading_s += read_s
        self._reads_until_s = max(self._reads_until_s, now_s) + read_s
        for wish in orders.want:
            if wish.num_nodes:
                self._owes_since_s.setdefault(wish.sequence, now_s)
        for news in orders.commit:
            if drafts_for.get(news.sequence, False):
                self._owes_since_s.setdefault(news.sequence, now_s)

    def has_begun(self, now_s: float) -> bool:
        """Whether it should have spoken long ago."""
        silence_s = self._owed_before_s + now_s - self._oldest_s(now_s)
        return bool(self._owes_since_s) and silence_s > _SILENT_S + self._reading_s

    def pause(self, now_s: float) -> bool:
        """It has fallen silent; whether that is news. Pauses double until it speaks."""
        self.now = True
        self._owed_before_s, self._reading_s = 0.0, max(self._reads_until_s - now_s, 0.0)
        self._owes_since_s = dict.fromkeys(self._owes_since_s, now_s)
        if self.is_paused:
            return False
        self._paused_until_s = now_s + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_PAUSE_S)
        return True

    def resume(self, now_s: float) -> bool:
        """Whether its pause is just over."""
        if self._paused_until_s is None or now_s < self._paused_until_s:
            return False
        self._paused_until_s = None
        return True

    def _oldest_s(self, now_s: float) -> float:
        """Since when it owes; `now_s` where it does not."""
        return next(iter(self._owes_since_s.values()), now_s)
