"""Go now or wait: whether a round is worth delaying for the drafts that are due.

Going now commits `ready_tokens` in `ready_s`; waiting w seconds first and then going with what has come by then commits
more tokens, later. What counts is tokens per second, so wait only where

    tokens(w) / (w + cost(w))  >  tokens(0) / cost(0)

for some moment w at which a draft is due. Only those moments matter: between them the right side's tokens stay and its
time grows. PEARL's pre-verify (arXiv 2408.11850) is the answer "now": a frontier of one node, or none, that is worth
more now than a bigger one later. While the verifier is busy waiting costs nothing; time counts from when it is free.

A due draft counts by the chance that it comes in time, so one unreliable drafter cannot hold a round; and a wait ends
after `max_wait_s`, whatever is promised. Non-anticipating: only values and measured times go in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from contracts.errors import InvalidArgument
from speculation.cost import StepCost

__all__ = ["Due", "wait_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Draft nodes under way: when, how many accepted tokens they would add by their values, in how many rows."""

    in_s: float
    tokens: float
    num_rows: int
    num_context: int = 0
    chance: float = 1.0

    def __post_init__(self) -> None:
        if not (self.in_s >= 0.0 and self.tokens >= 0.0 and self.num_rows >= 0 and 0.0 <= self.chance <= 1.0):
            raise InvalidArgument(
                f"a draft is due in {self.in_s} s with {self.tokens} tokens in {self.num_rows} rows and chance "
                f"{self.chance}; times, tokens and rows are not negative, and a chance is between 0 and 1"
            )


def wait_s(
    *,
    ready_tokens: float,
    num_rows: int,
    num_context: int,
    due: Sequence[Due],
    cost: StepCost,
    busy_s: float = 0.0,
    overhead_s: float = 0.0,
    max_wait_s: float = 1.0,
    margin: float = 0.02,
) -> float:
    """How long to wait before the next round goes; 0 is at once. `busy_s`: how long the verifier is busy anyway.

    A wait must be better by `margin`, since what is due may be late while what is ready is there.
    """
    best_s, best = 0.0, ready_tokens / (busy_s + cost.cost_s(num_rows, num_context) + overhead_s)
    best *= 1.0 + margin
    tokens = ready_tokens
    # Without a verifier to send to, what arrives meanwhile is had for nothing; only the order by time matters.
    at = attrgetter("in_s")
    for in_s, drafts in groupby(sorted(due, key=at), key=at):
        if in_s > max(max_wait_s, busy_s):
            break
        for draft in drafts:
            tokens += draft.chance * draft.tokens
            num_rows += draft.num_rows
            num_context += draft.num_context
        start_s = max(in_s, busy_s)
        rate = tokens / (start_s + cost.cost_s(num_rows, num_context) + overhead_s)
        if rate > best:
            best_s, best = in_s, rate
    return best_s
