"""When nobody drafts for a sequence: as long as the budget takes none of its nodes.

A budget of zero makes a round as cheap as plain decoding, but drafters that go on drafting for nothing take processors
and messages from it, and the verifier may wait for what it will not check. So after some rounds in a row without a node
drafting rests, and is tried again later: after a pause that doubles while trials stay fruitless, and is short again
once one bore fruit. So the cost of drafts that never pay goes to nothing, and a text that becomes easy is noticed
within a pause. (SmartSpec, arXiv 2406.14066, lowers the draft length to zero under load; this is its other half.)
"""

from __future__ import annotations

from contracts.errors import InvalidArgument

__all__ = ["Resting"]


class Resting:
    """See the module. `now` says whether it rests."""

    __slots__ = ("_fruitless", "_left", "_pause", "longest_pause", "now", "patience", "shortest_pause")

    def __init__(self, *, patience: int = 8, shortest_pause: int = 16, longest_pause: int = 256) -> None:
        if patience < 1 or not 1 <= shortest_pause <= longest_pause:
            raise InvalidArgument(
                f"resting has patience {patience}, shortest_pause {shortest_pause}, longest_pause {longest_pause}; "
                "all are 1 or more rounds, and the last is the longest"
            )
        self.patience, self.shortest_pause, self.longest_pause = patience, shortest_pause, longest_pause
        self.now = False
        self._fruitless, self._left, self._pause = 0, 0, shortest_pause

    def observe(self, num_checked: int) -> bool:
        """A round that checked so many of the sequence's nodes; whether it began or stopped to rest with it."""
        if self.now:
            self._left -= 1
            self.now = self._left > 0
            return not self.now
        if num_checked > 0:
            self._fruitless, self._pause = 0, self.shortest_pause
            return False
        self._fruitless += 1
        if self._fruitless < self.patience:
            return False
        self._fruitless, self._left, self.now = 0, self._pause, True
        self._pause = min(2 * self._pause, self.longest_pause)
        return True
