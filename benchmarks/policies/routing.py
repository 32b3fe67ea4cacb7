"""Routing on recorded requests: one after another, each by whom the roster sends, and how often that is the best one.

Drafters that do not draft for a request may follow it: they read what was committed and score it (free evidence), a few
rounds behind. How many of them do is a parameter, for it costs them passes; without any, only trials teach. The service
lets those follow that could be the best for such a prompt.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from benchmarks.policies.stream import cost_of, fleet_of, step_s_of
from benchmarks.traces.replay import Replay
from benchmarks.traces.trace import Request, Trace
from contracts.types import DrafterId
from speculation.budget import Ready, RoundBudget

__all__ = ["RoutedFleet", "hits"]

_ROUTE_EVERY = 4  # rounds, as the service does
_MAX_DRAFT = 8


class RoutedFleet:
    """See the module. `num_followers` of a request, at random; None: those that could be the best. `voice_of` and
    `slower` may change while it serves: whose recorded drafts a drafter has, if not its own, and by what factor its
    steps take longer."""

    def __init__(self, trace: Trace, *, num_followers: int | None, seed: int) -> None:
        self.trace, self.num_followers = trace, num_followers
        self.roster, self.cost = fleet_of(trace), cost_of(trace)
        self.budget = RoundBudget(max_rows=512)
        self.voice_of: dict[DrafterId, DrafterId] = {}
        self.slower: dict[DrafterId, float] = {}
        self._rng = random.Random(seed)
        self.num_followed: list[int] = []
        """For each request, by how many drafters."""
        self._step_s = {drafter: step_s_of(trace, drafter) for drafter in trace.drafters}

    @property
    def round_s(self) -> float:
        """What a plain step takes, in which drafting is free."""
        return self.cost.cost_s(1, 100)

    def serve(self, request: Request) -> DrafterId | None:
        """One request; the drafter that drafted in most of its rounds."""
        replay = Replay(self.trace, request, self.roster, f"{len(self.num_followed)}", voice_of=self.voice_of)
        followers = self._followers(replay)
        used: Counter[DrafterId] = Counter()
        num_followed = 0
        while replay.num_left:
            self.roster.assign([replay.drafting], round_s=self.round_s)
            drafters = replay.drafting.drafters
            for _ in range(_ROUTE_EVERY):
                if replay.num_left:
                    self._round(replay)
                    used.update(drafters)
            for drafter in set(followers) - set(drafters):
                replay.follow(drafter, num_followed)
            num_followed = replay.num_committed
        self.roster.learn(replay.drafting)
        self.num_followed.append(len(set(followers) - used.keys()))
        return used.most_common(1)[0][0] if used else None

    def _followers(self, replay: Replay) -> list[DrafterId]:
        if self.num_followers is not None:
            return self._rng.sample(self.trace.drafters, self.num_followers)
        return [drafter for drafter in self.trace.drafters if self.roster.could_be_best(replay.drafting, drafter)]

    def _round(self, replay: Replay) -> None:
        drafters = replay.drafting.drafters
        replay.propose(drafters)
        for drafter in drafters:
            elapsed_s = self._step_s[drafter] * self.slower.get(drafter, 1.0)
            self.roster.observe_step(drafter, num_sequences=1, elapsed_s=elapsed_s)
        ready = Ready(sequence=replay.sequence, context=replay.context, nodes=replay.nodes(), max_nodes=_MAX_DRAFT)
        replay.verify(self.budget.choose([ready], self.cost).nodes[replay.sequence])


def hits(fleet: RoutedFleet, requests: list[Request], best: Mapping[str, DrafterId]) -> list[bool]:
    """For each request whether it was served by the best drafter of its domain."""
    return [fleet.serve(request) == best[request.domain] for request in requests]
