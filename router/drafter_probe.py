"""A first look at a drafter that joins: how often the target agrees with it on a short text of the target's own.

A drafter that was quantised badly, or was made for another model, loads and drafts and is never right, and nobody
would know (peers' users complain of just that). So each one that brings a model drafts for one short answer by itself,
when no client's request runs, for that would be half as fast meanwhile; what came of it is logged, and told with its
status. Where clients leave no gap for long, it runs beside them, but never before one that waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.types import DrafterId, SamplingParams, SequenceId, TenantId, TokenLogprob
from router.modes import MODES
from router.scheduler import Scheduler
from router.sequence import RoutedSequence

__all__ = ["ACCEPTANCE_FLOOR", "DrafterProbes"]

_log = logging.getLogger(__name__)

ACCEPTANCE_FLOOR = 0.05
"""Below it a drafter is as good as none: on texts that small models write, one trained for the target's vocabulary and
nothing else is right more often."""

_PROMPT = "In a small town by the sea there was a shop that sold"
_NUM_TOKENS = 32
_MAX_DRAFT = 4
_PROBER = TenantId("specfleet:probe")
_LAST = -(2**31)  # clients' requests go first
_PATIENCE_S = 60.0  # how long a probe waits for a moment in which no client's request runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    tokens: list[int]
    asked_s: float


@dataclass
class _Count:
    """An output that nobody reads."""

    num_tokens: int = 0
    at_end: Callable[[], None] = lambda: None

    def take(
        self, tokens: Sequence[int], guessed_by: Sequence[DrafterId | None], logprobs: Sequence[TokenLogprob]
    ) -> bool:
        self.num_tokens += len(tokens)
        if self.num_tokens < _NUM_TOKENS:
            return False
        self.at_end()
        return True

    def fail(self, code: str, reason: str) -> None:
        _log.warning("a drafter could not be probed: %s: %s", code, reason)
        self.at_end()


class DrafterProbes:
    """`encode` is the target's; without a target there is nothing to agree with, and nothing is probed. One probe runs
    at a time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.acceptance: dict[DrafterId, float] = {}
        """Of those in the fleet that were probed: accepted tokens by drafted ones."""
        self._scheduler = scheduler
        self._num_probes = 0
        self._waiting: dict[DrafterId, _Asked] = {}
        self._running: RoutedSequence | None = None

    def begin(self, drafter: DrafterId, encode: Callable[[str], list[int]], *, max_context: int) -> None:
        """Asks for a probe of a drafter that has joined; its result comes when there was time for it."""
        tokens = encode(_PROMPT)
        if not tokens or len(tokens) + _NUM_TOKENS > max_context:
            return
        self._waiting[drafter] = _Asked(tokens=tokens, asked_s=self._scheduler.clock.now_s())
        self.go_on()

    def forget(self, drafter: DrafterId) -> None:
        """It has left, and its probe with it."""
        self.acceptance.pop(drafter, None)
        self._waiting.pop(drafter, None)
        probe = self._running
        if probe is not None and drafter in (probe.allowed_drafters or ()):
            self._running = None
            self._scheduler.cancel(probe.id)
        self.go_on()

    def go_on(self) -> None:
        """Begins the next probe if nobody is in its way."""
        drafter = next(iter(self._waiting), None)
        if drafter is not None and self._running is None and self._has_room(self._waiting[drafter]):
            self._running = self._probe(drafter, self._waiting.pop(drafter).tokens)
            self._scheduler.submit(self._running)

    # Inside

    def _has_room(self, asked: _Asked) -> bool:
        scheduler = self._scheduler
        if scheduler.verifier is None or scheduler.waiting or len(scheduler.running) >= scheduler.max_running:
            return False
        return not scheduler.running or scheduler.clock.now_s() - asked.asked_s > _PATIENCE_S

    def _probe(self, drafter: DrafterId, tokens: list[int]) -> RoutedSequence:
        self._num_probes += 1
        allowed = frozenset({drafter})
        output = _Count()
        sequence = RoutedSequence(
            id=SequenceId(str(2**63 + self._num_probes)),  # a number that no client's sequence gets
            tenant=_PROBER,
            tokens=tokens,
            num_prompt=len(tokens),
            max_tokens=_NUM_TOKENS,
            sampling=SamplingParams(),
            parts=MODES["vanilla"].without("pricing").without("budget"),  # who is never checked shows nothing
            max_draft=_MAX_DRAFT,
            drafting=self._scheduler.roster.open(_PROBER, tokens, temperature=0.0, allowed=allowed),
            output=output,
            allowed_drafters=allowed,
            priority=_LAST,
        )
        output.at_end = lambda: self._ended(drafter, sequence)
        return sequence

    def _ended(self, drafter: DrafterId, sequence: RoutedSequence) -> None:
        self._running = None
        figures = sequence.figures
        if figures.num_draft_tokens == 0:
            _log.warning("drafter %s drafted nothing when it was probed", drafter)
            return
        acceptance = figures.num_accepted_tokens / figures.num_draft_tokens
        self.acceptance[drafter] = acceptance
        if acceptance < ACCEPTANCE_FLOOR:
            _log.warning(
                "drafter %s agrees with the target on %.0f%% of a probe of %d drafts, below the floor of %.0f%%; is it "
                "made for this target, and are its weights whole?",
                drafter,
                100 * acceptance,
                figures.num_draft_tokens,
                100 * ACCEPTANCE_FLOOR,
            )
        else:
            _log.info("drafter %s agrees with the target on %.0f%% of a probe", drafter, 100 * acceptance)
