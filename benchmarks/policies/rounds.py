"""Budgets on recorded requests: a target under a steady load, and what it commits a second by how rounds are chosen.

Time is that of the measured cost table; drafting is not in it, for it happens elsewhere and meanwhile. Every policy
serves the same requests in the same order with the same drafter for each, and goes on until it has run so many rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

from benchmarks.policies.stream import fleet_of
from benchmarks.traces.replay import Replay, play_chain
from benchmarks.traces.trace import Request, Trace
from contracts.types import DrafterId, SequenceId
from speculation.budget import Ready, RoundBudget
from speculation.cost import StepCost
from speculation.roster import Roster

__all__ = ["Chosen", "by_budget", "by_size", "chains_per_s", "taught", "tokens_per_s"]

Chosen = Mapping[SequenceId, Sequence[int]]
Policy = Callable[[Sequence[Replay], StepCost], Chosen]

_MAX_ROWS = 1024


class _Work(NamedTuple):
    """One sequence in one round."""

    num_rows: int
    num_context: int
    num_tokens: int


def by_budget() -> Policy:
    """The service's budget."""
    budget = RoundBudget(max_rows=_MAX_ROWS)

    def choose(replays: Sequence[Replay], cost: StepCost) -> Chosen:
        ready = [Ready(sequence=one.sequence, context=one.context, nodes=one.nodes()) for one in replays]
        return budget.choose(ready, cost).nodes

    return choose


def by_size(num_nodes: int) -> Policy:
    """So many of the best nodes of every sequence, whatever they are worth."""
    return lambda replays, cost: {one.sequence: [node.id for node in one.nodes()[:num_nodes]] for one in replays}


def taught(
    trace: Trace, requests: Sequence[Request], drafter_of: Mapping[str, DrafterId], *, worthless: bool = False
) -> Roster:
    """A roster whose calibration these requests have taught. `worthless`: by drafts of other requests."""
    roster = fleet_of(trace)
    for number, request in enumerate(requests):
        replay = Replay(trace, request, roster, f"taught {number}")
        while replay.num_left:
            other = requests[(number + replay.num_left) % len(requests)] if worthless else None
            replay.propose([drafter_of[request.domain]], of=other)
            replay.verify([node.id for node in replay.nodes()])
    return roster


def tokens_per_s(
    trace: Trace,
    requests: Sequence[Request],
    drafter_of: Mapping[str, DrafterId],
    roster: Roster,
    policy: Policy,
    cost: StepCost,
    *,
    load: int,
    num_rounds: int,
    worthless: bool = False,
) -> float:
    """`load` sequences at any time. `worthless`: every draft is of another request, so that hardly any is accepted."""
    waiting = enumerate(cycle(requests))
    running = [_begin(trace, roster, waiting) for _ in range(load)]
    tokens, time_s = 0, 0.0
    for number in range(num_rounds):
        for replay in running:
            drafter = drafter_of[replay.request.domain]
            replay.propose([drafter], of=requests[number % len(requests)] if worthless else None)
        chosen = policy(running, cost)
        work = [_work(replay, chosen[replay.sequence]) for replay in running]
        tokens += sum(each.num_tokens for each in work)
        time_s += cost.cost_s(sum(each.num_rows for each in work), sum(each.num_context for each in work))
        running = [replay if replay.num_left else _begin(trace, roster, waiting) for replay in running]
    return tokens / time_s


def chains_per_s(
    trace: Trace,
    requests: Sequence[Request],
    drafter_of: Mapping[str, DrafterId],
    length: int,
    cost: StepCost,
    *,
    load: int,
    num_rounds: int,
) -> float:
    """The same with a chain of a fixed length for every sequence; 0 is plain decoding."""
    waiting = cycle(requests)
    running = [_chain(trace, waiting, drafter_of, length) for _ in range(load)]
    tokens, time_s = 0, 0.0
    for _ in range(num_rounds):
        work = [next(chain) for chain in running]
        tokens += sum(each.num_tokens for each in work)
        time_s += cost.cost_s(sum(each.num_rows for each in work), sum(each.num_context for each in work))
    return tokens / time_s


def _begin(trace: Trace, roster: Roster, waiting: Iterator[tuple[int, Request]]) -> Replay:
    number, request = next(waiting)
    return Replay(trace, request, roster, f"{number}")


def _work(replay: Replay, nodes: Sequence[int]) -> _Work:
    num_rows = 1 + len(nodes)
    num_context = num_rows * replay.context + len(nodes)
    return _Work(num_rows, num_context, replay.verify(nodes))


def _chain(
    trace: Trace, waiting: Iterator[Request], drafter_of: Mapping[str, DrafterId], length: int
) -> Iterator[_Work]:
    while True:
        request = next(waiting)
        for before, committed in play_chain(trace.matches(request, drafter_of[request.domain]), length):
            context = len(request.prompt) + before
            yield _Work(1 + length, (1 + length) * context + length * (length + 1) // 2, committed)
