"""The scheduling loop: events come in, orders go out. Knows no network, no threads and no time of its own.

Whatever happens (a round is done, drafts arrive, someone joins or leaves, a request comes or goes) is one call here,
and `tick` then does what has become possible. So the same code serves real workers and a simulator on a virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from contracts.clock import Clock
from contracts.types import DrafterId, SequenceId, Verdict
from router.answer_times import AnswerTimes
from router.drafter_pool import DrafterPool
from router.fair_queue import FairQueue
from router.manners import Manners
from router.metrics.figures import SchedulerFigures
from router.orders import (
    DrafterLink,
    DrafterOffer,
    Drafts,
    Failure,
    Opened,
    RoundDone,
    RoundOrder,
    VerifierLink,
    VerifierOffer,
    VerifierOrders,
)
from router.rounds import PlannedRound, RoundMaker
from router.sequels import PreparedRound, SequelMaker
from router.sequence import RoutedSequence
from router.wishes import opened
from speculation.cost import CostTable
from speculation.fusion import FusionKind
from speculation.manner import Manner
from speculation.roster import Roster
from speculation.sequel import SequelPart

__all__ = ["Scheduler"]

_ROUTE_EVERY = 8  # rounds


@dataclass(slots=True, kw_only=True)
class _Verifier:
    offer: VerifierOffer
    link: VerifierLink
    rounds: RoundMaker
    sequels: SequelMaker
    num_reserved_blocks: int = 0
    num_free_blocks: int = 0
    in_flight: PlannedRound | None = None
    round: int = 0
    sent_s: float = 0.0
    sequel: PreparedRound | None = None
    """What it may go on with after the round in flight, once that was said."""
    free_s: float | None = None
    """Since when it could have computed what runs; None while nothing does."""
    waits_s: float | None = None
    """Since when the next round is held back for drafts."""


class Scheduler:
    """See the module. One target group; any number of drafters."""

    def __init__(
        self,
        clock: Clock,
        *,
        drafter_order: tuple[DrafterId, ...] = (),
        max_running: int = 64,
        fusion: FusionKind | None = None,
        is_priced: bool = True,
        on_round: Callable[[RoundDone, PlannedRound], None] | None = None,
    ) -> None:
        self.clock = clock
        self.roster = Roster()
        self.pool = DrafterPool(self.roster, clock, order=drafter_order, fusion=fusion)
        self.cost = CostTable()
        self.max_running = max_running
        self.figures = SchedulerFigures()
        self.running: dict[SequenceId, RoutedSequence] = {}
        self.waiting = FairQueue()
        self.verifier: _Verifier | None = None
        self._orders = VerifierOrders()
        self._last_round = 0
        self._needs_routing = False
        self.manners = Manners(clock, CostTable(), self.pool.cooperation, is_priced=is_priced)
        self.answer_times = AnswerTimes(clock)
        self._on_round = on_round or (lambda done, planned: None)

    # Events

    def verifier_joined(self, offer: VerifierOffer, link: VerifierLink) -> None:
        """The target is there, or there again: everything that runs begins anew on it."""
        self.figures.num_joins += 1
        self.cost, probed = CostTable(), CostTable()
        for report in offer.probes:
            self.cost.observe(report)
            probed.observe(report)
        self.manners = Manners(self.clock, probed, self.pool.cooperation, is_priced=self.manners.is_priced)
        rounds = RoundMaker(self.clock, self.roster, self.cost, max_rows=offer.max_batch_rows)
        sequels = SequelMaker(self.clock, self.roster, self.cost, max_rows=offer.max_batch_rows)
        self.verifier = _Verifier(
            offer=offer, link=link, rounds=rounds, sequels=sequels, num_free_blocks=offer.num_blocks
        )
        self._orders = VerifierOrders()
        for sequence in self.running.values():
            self._orders.open.append(self._opened(sequence))
            self.verifier.num_reserved_blocks += self._blocks(sequence)

    def verifier_left(self) -> None:
        """It is gone: what runs waits for the next, and keeps its committed tokens."""
        self.verifier, self._orders = None, VerifierOrders()
        self.answer_times.interrupted()
        for sequence in self.running.values():
            self._restart(sequence)

    def drafter_joined(self, offer: DrafterOffer, link: DrafterLink) -> None:
        self.pool.join(offer, link, self._all())
        self.manners.renewed()
        self._needs_routing = True

    def drafter_left(self, drafter: DrafterId) -> None:
        self.pool.leave(drafter, self._all())
        self.manners.renewed()
        self._needs_routing = True

    def submit(self, sequence: RoutedSequence) -> None:
        """A new sequence; it runs as soon as there is room."""
        self.answer_times.somebody_waits()
        sequence.submitted_s = self.clock.now_s()
        self.waiting.push(sequence)

    def cancel(self, sequence: SequenceId) -> None:
        """Nobody wants it any more. A round that it is in brings nothing for it."""
        self.waiting.discard(sequence)
        if (found := self.running.get(sequence)) is not None:
            self._end(found)

    def drafts(self, drafter: DrafterId, drafts: Drafts) -> None:
        """A drafter says what it found."""
        self._needs_routing |= self.pool.take(drafter, drafts, self.running)

    def round_done(self, done: RoundDone) -> None:
        """The verifier says what came of a round."""
        verifier = self.verifier
        if verifier is None or verifier.in_flight is None or done.round != verifier.round:
            self.figures.num_stale += 1
            return
        planned, verifier.in_flight = verifier.in_flight, None
        prepared, verifier.sequel = verifier.sequel, None
        verifier.num_free_blocks = done.num_free_blocks
        if done.report is not None:
            self.cost.observe(done.report)
            self.figures.num_rows += done.report.num_rows
            self.figures.num_rows_pruned += done.report.num_rows_pruned
        for cached in done.cached:
            # What it finds when it opens a sequence again says nothing about what the client's prompt shared.
            if (opened := self.running.get(cached.sequence)) is not None and opened.num_cached is None:
                opened.num_cached = min(cached.num_tokens, opened.num_prompt)
                self.figures.num_cached_tokens += opened.num_cached
        self.figures.num_rounds += 1
        num_before, ran = self.figures.num_tokens, list(self.running.values())
        verdicts = {verdict.sequence: verdict for verdict in done.verdicts}
        failures = {failure.sequence: failure for failure in done.failures}
        for item, sequence in zip(planned.items, planned.sequences, strict=True):
            if self.running.get(sequence.id) is not sequence or sequence.epoch != item.epoch:
                continue
            sequence.is_in_round = False
            if (verdict := verdicts.get(sequence.id)) is not None:
                self._settle(sequence, verdict)
            elif (failure := failures.get(sequence.id)) is not None:
                self._failed(sequence, failure)
        if done.going_on and prepared is not None:
            self._goes_on(verifier, prepared, done.going_on)
        busy_s = done.report.elapsed_s if done.report is not None else 0.0
        num_tokens = self.figures.num_tokens - num_before
        self.figures.recent.append((self.clock.now_s(), busy_s, num_tokens))
        self._observe_idleness(verifier, busy_s)
        self.answer_times.round_ended(busy_s, goes_on=bool(self.running))
        num_rows = done.report.num_rows if done.report is not None else 0
        self._needs_routing |= self.manners.round_ended(
            planned, ran, self.running.values(), num_tokens=num_tokens, num_rows=num_rows
        )
        self._on_round(done, planned)

    @property
    def is_idle(self) -> bool:
        """Whether the verifier waits for the next round, so that every draft may be what it waits for."""
        return self.verifier is not None and self.verifier.in_flight is None

    @property
    def num_sent(self) -> int:
        """Rounds that were ordered, those that may follow on another included."""
        return self._last_round

    def tick(self) -> float | None:
        """Does what has become possible; after how many seconds to be called again if nothing happens before."""
        self._admit()
        after_s = self._start_round()
        if after_s is None:
            after_s = self._prepare_sequel()
        if self.verifier is not None and self._orders:
            self._send()
        self.pool.flush()
        return after_s

    # Inside

    def _all(self) -> list[RoutedSequence]:
        return [*self.running.values(), *self.waiting]

    def _admit(self) -> None:
        """Lets in those that wait, in their order, as long as the cache has room for all they may become."""
        verifier, num_before = self.verifier, len(self.running)
        while verifier is not None and self.waiting and len(self.running) < self.max_running:
            sequence = self.waiting.first()
            num_blocks = self._blocks(sequence)
            if verifier.num_reserved_blocks + num_blocks > verifier.offer.num_blocks and self.running:
                break
            self.waiting.pop()
            verifier.num_reserved_blocks += num_blocks
            self.running[sequence.id] = sequence
            self.figures.queue_s.observe(self.clock.now_s() - sequence.submitted_s)
            self.figures.num_prompt_tokens += sequence.num_prompt
            self._orders.open.append(self._opened(sequence))
        if verifier is not None and (len(self.running) > num_before or self._needs_routing):
            self._route(verifier)

    def _route(self, verifier: _Verifier) -> None:
        self._needs_routing = False
        renews = self.manners.say(self.running.values())
        verifier.rounds.price_drafting(self.running.values())
        self.pool.route(list(self.running.values()), round_s=verifier.rounds.round_s(), renews=renews)

    def _start_round(self) -> float | None:
        verifier = self.verifier
        if verifier is None or verifier.in_flight is not None:
            return None
        if not self.running:
            verifier.free_s = verifier.waits_s = None
            return None
        now_s = self.clock.now_s()
        verifier.free_s = now_s if verifier.free_s is None else verifier.free_s
        planned = verifier.rounds.plan(sorted(self.running.values(), key=lambda sequence: -sequence.priority))
        if not planned.items:
            verifier.waits_s = now_s if verifier.waits_s is None else verifier.waits_s
            return planned.wait_s or None
        self.figures.draft_wait_s.observe(0.0 if verifier.waits_s is None else now_s - verifier.waits_s)
        verifier.waits_s = None
        for sequence in planned.sequences:
            if verifier.rounds.goes_without(sequence):
                self.pool.went_without(sequence)
        self._last_round += 1
        self._orders.round = RoundOrder(round=self._last_round, items=planned.items)
        self._begun(verifier, planned, self._last_round)
        return None

    def _begun(self, verifier: _Verifier, planned: PlannedRound, number: int) -> None:
        verifier.in_flight, verifier.round, verifier.sent_s = planned, number, self.clock.now_s()
        for item, sequence in zip(planned.items, planned.sequences, strict=True):
            sequence.is_in_round = True
            self.figures.began(item, sequence)
            sequence.num_sent = (
                len(sequence.tokens) if item.num_pending is None else sequence.num_sent + item.num_pending
            )
        if self.figures.num_rounds % _ROUTE_EVERY == 0:
            self._observe_load(verifier)
            self._needs_routing = True

    def _prepare_sequel(self) -> float | None:
        """Says what to go on with after the round in flight, when it is time; or after how many seconds that is."""
        verifier = self.verifier
        if verifier is None or verifier.in_flight is None or verifier.sequel is not None:
            return None
        planned = verifier.in_flight
        if not verifier.sequels.is_possible(planned, self.running.values()):
            return None
        due_in_s = verifier.sequels.due_s(planned, verifier.sent_s) - self.clock.now_s()
        if due_in_s > 0.0:
            return due_in_s
        self._last_round += 1
        verifier.sequel = verifier.sequels.make(
            planned, number=self._last_round, after=verifier.round, rate=self.tokens_per_s()
        )
        self._orders.sequel = verifier.sequel.sequel
        return None

    def _goes_on(self, verifier: _Verifier, prepared: PreparedRound, parts: Sequence[SequelPart]) -> None:
        """The verifier did as it was told, and computes the next round already."""
        self.figures.num_unasked += 1
        self.figures.draft_wait_s.observe(0.0)
        alive = [part for part in parts if part.sequence in self.running]
        self._begun(verifier, prepared.planned(alive), prepared.sequel.round)

    def _send(self) -> None:
        assert self.verifier is not None, "orders are gathered for a verifier that is there"
        orders, self._orders = self._orders, VerifierOrders()
        self.verifier.link.send(orders)

    def _settle(self, sequence: RoutedSequence, verdict: Verdict) -> None:
        frontier = sequence.drafting.tree.in_flight
        nodes = frontier.nodes if frontier is not None else ()
        said_by = [tuple(sequence.drafting.tree[node].said) for node in frontier.ids] if frontier is not None else []
        settled = sequence.drafting.settle(verdict)
        if settled.stale:
            self.figures.num_stale += 1
            return
        guessed_by: list[DrafterId | None] = [*(nodes[index].drafter for index in verdict.accepted), None]
        sequence.tokens += verdict.tokens
        sequence.is_decoding = True
        sequence.figures.count(len(nodes), guessed_by)
        self.pool.count(nodes, said_by, verdict.accepted)
        self.figures.settled(len(nodes), len(verdict.tokens), settled)
        if sequence.constraint is not None:
            sequence.constraint.advance(verdict.tokens)
        if nodes and sequence.fusion is not None and len(sequence.drafting.drafters) > 1:
            is_held = settled.num_accepted + settled.ready
            self.pool.fusion.observe(
                sequence.fusion, num_held=is_held, num_tried=max(is_held, settled.num_accepted + settled.missed)
            )
        drafts = sequence.parts.max_drafters > 0 and sequence.manner is not Manner.PLAIN
        if drafts and sequence.parts.is_budgeted:
            self._needs_routing |= sequence.resting.observe(len(nodes))
        if sequence.output.take(verdict.tokens, guessed_by, verdict.logprobs):
            self.answer_times.ended(sequence.position - sequence.num_prompt)
            self._end(sequence)
        else:
            self.pool.decided(sequence, verdict)

    def _failed(self, sequence: RoutedSequence, failure: Failure) -> None:
        sequence.drafting.tree.abandon()
        has_no_room = failure.code == "OutOfBlocks" and len(self.running) > 1  # alone it will never have more
        if failure.code == "Stale" or has_no_room:
            # It is the verifier that knows too little of it, or has no room now: begin again.
            self.figures.num_stale += failure.code == "Stale"
            self._orders.end(sequence.id)
            self._restart(sequence)
            self._orders.open.append(self._opened(sequence))
            return
        self._end(sequence)
        sequence.output.fail(failure.code, failure.reason)

    def _restart(self, sequence: RoutedSequence) -> None:
        sequence.restart()
        self.figures.num_restarts += 1
        self.pool.restart(sequence)

    def _end(self, sequence: RoutedSequence) -> None:
        del self.running[sequence.id]
        self.pool.end(sequence)
        if not self.waiting:
            self.answer_times.nobody_waits()
        if self.verifier is not None:
            self.verifier.num_reserved_blocks -= self._blocks(sequence)
            self._orders.end(sequence.id)

    def _opened(self, sequence: RoutedSequence) -> Opened:
        """For the verifier: with as many of its candidates as drafters want to learn from."""
        num_logprobs = max(sequence.sampling.num_logprobs, self.pool.num_logprobs)
        return replace(opened(sequence), sampling=replace(sequence.sampling, num_logprobs=num_logprobs))

    def _blocks(self, sequence: RoutedSequence) -> int:
        """Cache blocks that it may come to need: all its tokens, and a tree in blocks of its own."""
        assert self.verifier is not None, "asked only where there is a cache"
        size = self.verifier.offer.block_tokens
        return (
            -(-(sequence.num_prompt + sequence.max_tokens + sequence.max_draft) // size)
            + 1
            + -(-sequence.max_draft // size)
        )

    def _observe_idleness(self, verifier: _Verifier, busy_s: float) -> None:
        """A round has ended that could have begun as soon as the one before had, or its first sequence came."""
        now_s = self.clock.now_s()
        self.figures.verified(busy_s=busy_s, took_s=None if verifier.free_s is None else now_s - verifier.free_s)
        verifier.free_s = now_s if self.running else None

    def _observe_load(self, verifier: _Verifier) -> None:
        self.pool.cooperation.observe(
            busy_share=1.0 - self.idle_share(), backlog_rounds=len(self.waiting) / max(len(self.running), 1)
        )

    def idle_share(self) -> float:
        """Part of the time of the recent rounds in which the verifier computed nothing."""
        recent = self.figures.recent
        if len(recent) < 2:
            return 0.0
        span_s = recent[-1][0] - recent[0][0]
        busy_s = sum(busy for _, busy, _ in list(recent)[1:])
        return min(max(1.0 - busy_s / span_s, 0.0), 1.0) if span_s > 0.0 else 0.0

    def answered_in_s(self, num_before: int) -> float:
        """When a sequence behind so many that wait would have its answer; 0 where that is not known, or it need not
        wait."""
        if not self.cost or not (num_before or len(self.running) >= self.max_running):
            return 0.0
        num = min(len(self.running) + num_before + 1, self.max_running)
        context = sum(sequence.position for sequence in self.running.values()) / max(len(self.running), 1)
        round_s = self.cost.cost_s(num, num * max(context, 1.0))
        return self.answer_times.answered_in_s(
            num_before, num_running=len(self.running), round_s=round_s, num_together=num
        )

    def tokens_per_s(self) -> float:
        """Of the recent rounds."""
        recent = self.figures.recent
        span_s = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0.0
        return sum(tokens for _, _, tokens in list(recent)[1:]) / span_s if span_s > 0.0 else 0.0
