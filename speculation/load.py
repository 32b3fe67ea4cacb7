"""How many drafters may work together on one sequence, by how busy the verifier is; whether they do is found by trying
(`ways`).

CoSine (arXiv 2503.10325): the verifier idles, more drafters; it is backlogged, fewer. A busy verifier has no room for
the nodes of a second drafter, and an idle one loses nothing by checking them. Two thresholds with a gap between them,
and the same side several times in a row before anything changes: one odd round moves nothing, and a load at a threshold
does not flap. One step at a time, for the effect of a step on the load is only known after it.
"""

from __future__ import annotations

from contracts.errors import InvalidArgument

__all__ = ["Cooperation"]


class Cooperation:
    """See the module. `num_drafters` is the answer."""

    __slots__ = ("_streak", "backlog_rounds", "busy_share", "max_drafters", "num_drafters", "patience")

    def __init__(
        self, *, max_drafters: int = 3, busy_share: float = 0.7, backlog_rounds: float = 1.0, patience: int = 8
    ) -> None:
        if max_drafters < 1 or patience < 1 or not 0.0 < busy_share < 1.0 or not backlog_rounds > 0.0:
            raise InvalidArgument(
                f"cooperation has max_drafters {max_drafters}, patience {patience}, busy_share {busy_share}, "
                f"backlog_rounds {backlog_rounds}; right: the first two 1 or more, then between 0 and 1, then above 0"
            )
        self.max_drafters, self.patience = max_drafters, patience
        self.busy_share, self.backlog_rounds = busy_share, backlog_rounds
        self.num_drafters = 1
        self._streak = 0

    @property
    def is_backlogged(self) -> bool:
        """Whether rounds were waiting at the last look: no time for anything but drafting."""
        return self._streak < 0

    def observe(self, *, busy_share: float, backlog_rounds: float) -> int:
        """One look at the verifier: what part of the time since the last look it worked, and how many rounds of rows
        wait for it. The number of drafters from now on."""
        if backlog_rounds >= self.backlog_rounds:
            self._streak = min(self._streak, 0) - 1
        elif busy_share < self.busy_share and backlog_rounds < 0.5 * self.backlog_rounds:
            self._streak = max(self._streak, 0) + 1
        else:
            self._streak = 0
        if abs(self._streak) >= self.patience:
            step = 1 if self._streak > 0 else -1
            self.num_drafters = min(max(self.num_drafters + step, 1), self.max_drafters)
            self._streak = 0
        return self.num_drafters
