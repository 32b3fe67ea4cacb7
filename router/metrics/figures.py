"""What scheduler and front door count while they work. Whoever counts does no more than that: rates, shares and
quantiles are for those who read."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

from router.answer import Reason
from router.metrics.histogram import LATENCY_S, MOMENT_S, Histogram
from router.orders import RoundItem
from router.request import Choice, Request
from router.sequence import RoutedSequence
from speculation.frontier import Settled

__all__ = ["Fallback", "FrontFigures", "SchedulerFigures", "fallback_of"]

_RECENT = 64  # rounds over which idleness and time of a round are told


class Fallback(StrEnum):
    """Why a sequence that speculates was in a round without drafts."""

    NOT_PAYING = "not_paying"
    """Drafting rests, for it did not pay."""
    NO_DRAFTER = "no_drafter"
    NONE_READY = "none_ready"
    NONE_TAKEN = "none_taken"
    """There were nodes, and the round had better use for its rows."""


@dataclass(slots=True)
class SchedulerFigures:
    """Counts since the start, and the recent rounds."""

    num_rounds: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    num_stale: int = 0
    num_restarts: int = 0
    rounds_by_frontier: dict[int, int] = field(default_factory=dict)
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_rows_pruned: int = 0
    num_unasked: int = 0
    """Rounds that the verifier began by itself."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    """Of prompts, those that the verifier's prefix cache had."""
    num_joins: int = 0
    """Verifiers that joined."""
    verifier_busy_s: float = 0.0
    verifier_idle_s: float = 0.0
    """Time that rounds took beyond the verifier's own, while there were sequences to compute."""
    round_s: Histogram = field(default_factory=lambda: Histogram(MOMENT_S))
    draft_wait_s: Histogram = field(default_factory=lambda: Histogram(MOMENT_S))
    """How long each round was held back for drafts that were due."""
    queue_s: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    fallbacks: Counter[Fallback] = field(default_factory=Counter)
    reroots: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """By whether a node was rejected, and whether the tree held the target's own token."""
    num_survived: int = 0
    num_dropped: int = 0
    """Nodes of trees, at a verdict."""
    recent: deque[tuple[float, float, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """(end of the round, its seconds in the engine, tokens it decided)."""

    def settled(self, num_checked: int, num_tokens: int, settled: Settled) -> None:
        """A verdict on one sequence, of whose tree so many nodes were checked."""
        self.num_tokens += num_tokens
        self.num_draft_tokens += num_checked
        self.num_accepted_tokens += settled.num_accepted
        self.rounds_by_frontier[num_checked] = self.rounds_by_frontier.get(num_checked, 0) + 1
        self.reroots[settled.missed, settled.ready] += 1
        self.num_survived += settled.num_survived
        self.num_dropped += settled.num_dropped

    def verified(self, *, busy_s: float, took_s: float | None) -> None:
        """The verifier was busy for so long, and `took_s` passed since it could have begun; None: nobody knows."""
        self.round_s.observe(busy_s)
        self.verifier_busy_s += busy_s
        if took_s is not None:
            self.verifier_idle_s += max(took_s - busy_s, 0.0)

    def began(self, item: RoundItem, sequence: RoutedSequence) -> None:
        """A sequence is in a round that begins."""
        if (reason := fallback_of(item, sequence)) is not None:
            self.fallbacks[reason] += 1


@dataclass(slots=True)
class FrontFigures:
    """What clients met with."""

    first_token_s: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    token_s: Histogram = field(default_factory=lambda: Histogram(MOMENT_S))
    """Of each answer, the mean time between two tokens."""
    request_s: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    finished: Counter[Reason] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """By the kind of error."""
    turned_away: Counter[str] = field(default_factory=Counter)
    """Calls that did not get as far as asking for something; the gate counts them."""

    def began_to_answer(self, request: Request, choice: Choice) -> None:
        """The first token is there."""
        self.first_token_s.observe(choice.first_token_s - request.began_s)

    def ended(self, request: Request, choice: Choice) -> None:
        """An answer has ended, however it did."""
        assert choice.answer.ended is not None, "counted when it has"
        self.finished[choice.answer.ended.reason] += 1
        self.request_s.observe(choice.ended_s - request.began_s)
        num_more = len(choice.answer.tokens) - 1
        if num_more > 0 and choice.first_token_s:
            self.token_s.observe((choice.ended_s - choice.first_token_s) / num_more)


def fallback_of(item: RoundItem, sequence: RoutedSequence) -> Fallback | None:
    """Why this sequence goes into a round with nothing to check; None where it has something, reads its prompt, wants
    no drafts, or could use none."""
    may_draft = sequence.parts.max_drafters > 0 and sequence.is_decoding and sequence.num_left > 1
    if item.nodes or not may_draft:
        return None
    if sequence.is_plain:
        return Fallback.NOT_PAYING
    if not sequence.drafting.drafters:
        return Fallback.NO_DRAFTER
    return Fallback.NONE_TAKEN if len(sequence.drafting.tree) else Fallback.NONE_READY
