"""Fusion on recorded requests: what several drafters commit a round beside each alone, with as many nodes checked.

Every round checks exactly the same number of nodes, those of highest value, whoever said them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.policies.stream import fleet_of
from benchmarks.traces.replay import Replay
from benchmarks.traces.trace import Request, Trace
from contracts.types import DrafterId

__all__ = ["Who", "per_round", "routed"]

Who = Callable[[Replay], Sequence[DrafterId]]


def per_round(
    trace: Trace, requests: Sequence[Request], who: Who | Sequence[DrafterId], *, num_nodes: int, num_taught: int
) -> float:
    """Tokens committed a round. The first `num_taught` requests teach calibration and expertise and do not count."""
    roster = fleet_of(trace)
    tokens = num_rounds = 0
    for number, request in enumerate(requests):
        replay = Replay(trace, request, roster, f"{number}")
        while replay.num_left:
            drafters = who(replay) if callable(who) else who
            replay.drafting.drafters = tuple(drafters)
            replay.propose(drafters)
            committed = replay.verify([node.id for node in replay.nodes()[:num_nodes]])
            if number >= num_taught:
                tokens, num_rounds = tokens + committed, num_rounds + 1
        for drafter in trace.drafters:  # whoever did not draft has followed
            if drafter not in replay.drafting.drafters:
                replay.follow(drafter)
        roster.learn(replay.drafting)
    return tokens / num_rounds


def routed(num_drafters: int) -> Who:
    """Those that the sequence's scores rank first."""

    def who(replay: Replay) -> Sequence[DrafterId]:
        scores = replay.drafting.scores
        return sorted(scores.drafters(), key=lambda drafter: -scores.score(drafter))[:num_drafters]

    return who
