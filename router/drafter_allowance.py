"""How much a drafter may say: what it was asked for, and a good deal more, but no flood.

Every wish allows its nodes twice, and where each of them hangs, and every order a few words besides, so that an honest
drafter never comes near the bound however late it is; what is over it was asked for by nobody. No clock and no rate: a
fleet that decides tokens faster allows more, one that is idle allows nothing new. Messages have a rate besides, because
each one costs time, whatever it says: beyond it the router is slower to read, and the sender has to wait.
"""

from __future__ import annotations

from contracts.clock import Clock
from contracts.types import SequenceId
from router.orders import DrafterOrders
from specfleet.v1 import fleet_pb2

__all__ = ["DrafterAllowance", "Pace"]

_SPARE = 4096
_WORDS = 8  # beside its nodes, for each wish and commit: an end, evidence, a piece of an answer
_FREE_STEPS = 256  # reports of steps in a message: a long prompt was read
_MESSAGES_PER_S, _BURST_S = 2_000.0, 0.25
_SAVED = 4  # wishes of each sequence that may be unanswered at a time


class DrafterAllowance:
    """Of one drafter on one stream."""

    def __init__(self) -> None:
        self._left = _SPARE
        self._standing: dict[SequenceId, int] = {}
        """What the nodes wished for each sequence that it has open may cost, after every commit again where the wish
        stands."""

    def grant(self, orders: DrafterOrders) -> None:
        """It is being asked for this."""
        for sequence in orders.close:
            self._standing.pop(sequence, None)
        for opened in orders.open:
            self._standing[opened.sequence] = 0
        for wish in orders.want:
            # Each node may come in a draft of its own, which says where it hangs.
            each = 2 + _cost_of_path(len(wish.below) + wish.max_depth)
            self._standing[wish.sequence] = wish.num_nodes * each
            self._left += wish.num_nodes * each + _WORDS
        for news in orders.commit:
            self._left += self._standing.get(news.sequence, 0) + len(news.tokens) + _WORDS
        most = _SPARE + _SAVED * sum(nodes + _WORDS for nodes in self._standing.values())
        self._left = min(self._left, most)

    def spend(self, message: fleet_pb2.Drafts) -> bool:
        """Whether this may be said, which nothing at all may not; counted before anything is unpacked further."""
        if not (message.drafts or message.evidence or message.steps):
            return False
        cost = 1 + len(message.evidence) + max(len(message.steps) - _FREE_STEPS, 0)
        for draft in message.drafts:
            cost += 1 + len(draft.nodes) + _cost_of_path(len(draft.below))
            if cost > self._left:
                break
        if cost > self._left:
            return False
        self._left -= cost
        return True


def _cost_of_path(num_tokens: int) -> int:
    return num_tokens // 16


class Pace:
    """How long to wait before the next message is read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._booked_s = clock.now_s() - _BURST_S
        """Until when the messages so far would take, at the highest rate."""

    def next_s(self) -> float:
        """After one more message."""
        now_s = self._clock.now_s()
        self._booked_s = max(self._booked_s, now_s - _BURST_S) + 1.0 / _MESSAGES_PER_S
        return max(self._booked_s - now_s, 0.0)
