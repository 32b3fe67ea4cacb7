"""Rounds on the target: opens and closes sequences as the router says, checks frontiers, reports verdicts.

One thread does all of it, in the order in which messages came. When a round is over and the router has said what to go
on with, the next one begins at once: the report leaves first, and the router reads it while the target works. The
router is believed in nothing: what does not fit is answered by a failure of that sequence, and changes nothing for the
others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from contracts.clock import Clock, SystemClock
from contracts.errors import Internal, InvalidArgument, RankLost, SpecfleetError
from contracts.types import Epoch, SequenceId, TenantId, Verdict
from engine.engine import Engine
from engine.work import StepResult, Verify
from specfleet.tracing import Tracing
from specfleet.v1 import fleet_pb2
from speculation.cost import CostTable
from speculation.sequel import SequelItem, SequelPart, go_on, nodes_below
from workers.inbox import Inbox
from workers.link import Arrival
from workers.pruning import Pruner
from workers.wire import (
    going_to_wire,
    nodes_to_wire,
    report_to_wire,
    sampling_of,
    sequel_of,
    sequence_id,
    verdict_to_wire,
    verify_of,
)

__all__ = ["VerifierNode"]

logger = logging.getLogger(__name__)

_STALE = "Stale"


@dataclass(slots=True)
class _Open:
    """A sequence as the router and the engine both know it; `position` is the index of its next token, `trace` the
    place of its span, if it is traced."""

    epoch: int
    position: int
    trace: str


class VerifierNode:
    """See the module. `hello` is how it introduces itself; with a `pruner` hopeless rows leave rounds early, and with
    `tracing` each round is told of."""

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        hello: fleet_pb2.FromWorker,
        clock: Clock | None = None,
        pruner: Pruner | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.name, self.hello, self.pruner = name, hello, pruner
        self.num_stale = 0
        """Messages about an epoch or a position that is not the one here."""
        self._engine, self._clock, self._tracing = engine, clock or SystemClock(), tracing
        self._open: dict[int, _Open] = {}
        self._refused: dict[int, fleet_pb2.Failure] = {}
        """Sequences that could not be opened, and why: their rounds are answered with it."""
        self._cached: dict[int, int] = {}
        """Of the sequences opened since the last round: how many tokens the prefix cache had."""
        self._sequel: fleet_pb2.Sequel | None = None
        self._verdicts: dict[SequenceId, Verdict] = {}
        """Of the last round."""
        self._cost = CostTable()
        self._end_tokens = frozenset(hello.verifier_hello.eos_token_ids)

    @property
    def num_sequences(self) -> int:
        """That are open."""
        return len(self._open)

    def run(self, inbox: Inbox[Arrival]) -> None:
        """Works until the inbox is closed, or the router says that this is all. RankLost when the group is broken."""
        waiting: deque[Arrival] = deque()
        while (arrivals := inbox.take(wait=not waiting)) is not None:
            waiting += arrivals
            arrival = waiting.popleft()
            if arrival.message is None:
                self.reset()
            elif arrival.message.HasField("drain"):
                return
            elif arrival.message.HasField("verifier_work"):
                done = self.work(arrival.message.verifier_work)
                while done is not None:
                    waiting += inbox.take(wait=False) or ()
                    following = self._following(done, [each.message for each in waiting])
                    arrival.stream.send(fleet_pb2.FromWorker(round_done=done))
                    done = self._round(following) if following is not None else None
            else:
                logger.warning("dropped a message that is none for a verifier: %.200s", arrival.message)

    def reset(self) -> None:
        """Forgets all sequences: the router that opened them is gone."""
        for number in list(self._open):
            self._close(number)
        self._refused.clear()
        self._sequel = None

    def work(self, work: fleet_pb2.VerifierWork) -> fleet_pb2.RoundDone | None:
        """One message: what it closes, what it opens, and its round if it has one."""
        for number in work.close:
            self._close(number)
        for opening in work.open:
            self._take_up(opening)
        if work.HasField("sequel"):
            self._sequel = work.sequel
        return self._round(work.round) if work.HasField("round") else None

    def _close(self, number: int) -> None:
        self._refused.pop(number, None)
        self._cached.pop(number, None)
        if self._open.pop(number, None) is not None:
            self._engine.close(sequence_id(number))

    def _take_up(self, opening: fleet_pb2.Opening) -> None:
        known = self._open.get(opening.sequence)
        if known is not None and known.epoch >= opening.epoch:
            self.num_stale += 1
            return
        self._close(opening.sequence)
        try:
            num_cached = self._engine.open(
                sequence_id(opening.sequence),
                tuple(opening.tokens),
                sampling_of(opening.sampling),
                num_prompt=opening.num_prompt,
                tenant=TenantId(opening.tenant),
                epoch=Epoch(opening.epoch),
            )
        except SpecfleetError as error:
            about = {"sequence": opening.sequence, "request": opening.request}
            logger.warning("sequence %d could not be opened: %s", opening.sequence, error, extra=about)
            self._refused[opening.sequence] = _failure(opening, type(error).__name__, error.message)
        else:
            self._open[opening.sequence] = _Open(opening.epoch, len(opening.tokens), opening.trace)
            self._cached[opening.sequence] = num_cached

    def _round(self, message: fleet_pb2.Round) -> fleet_pb2.RoundDone:
        began_s = self._clock.wall_s()
        cached = [fleet_pb2.Cached(sequence=number, num_tokens=num) for number, num in self._cached.items()]
        self._cached.clear()
        done = fleet_pb2.RoundDone(round=message.round, began_s=began_s, cached=cached)
        self._verdicts.clear()
        items: list[fleet_pb2.Round.Item] = []
        work: list[Verify] = []
        for item in message.items:
            try:
                failure = self._objection(item)
                piece = verify_of(item)
            except InvalidArgument as error:
                failure = _failure(item, type(error).__name__, error.message)
            if failure is not None:
                done.failures.append(failure)
            elif (fitting := self._less_what_is_cached(piece)) is not None:
                items.append(item)
                work.append(fitting)
        if work:
            self._step(items, work, done)
            if self._tracing is not None:
                self._tell_of(items, done, self._tracing)
        done.num_free_blocks = self._engine.num_free_blocks
        return done

    def _tell_of(self, items: Sequence[fleet_pb2.Round.Item], done: fleet_pb2.RoundDone, tracing: Tracing) -> None:
        """The round is in the trace of every sequence that it was about."""
        ended_s = self._clock.wall_s()
        accepted = {verdict.sequence: len(verdict.accepted) for verdict in done.verdicts}
        for item in items:
            if trace := self._open[item.sequence].trace:
                about = {
                    "specfleet.round": done.round,
                    "specfleet.sequence": item.sequence,
                    "specfleet.nodes": len(item.nodes),
                    "specfleet.accepted": accepted.get(item.sequence, 0),
                    "specfleet.sequences": len(items),
                }
                tracing.record("round", parent=trace, began_s=done.began_s, ended_s=ended_s, attributes=about)

    def _following(
        self, done: fleet_pb2.RoundDone, waiting: Sequence[fleet_pb2.ToWorker | None]
    ) -> fleet_pb2.Round | None:
        """The round to go on with, if the router said what and it is worth it; the report of this one then says so."""
        said = [self._sequel, *(each.verifier_work.sequel for each in waiting if each is not None)]
        message = next((each for each in said if each is not None and each.items and each.after == done.round), None)
        if message is None:
            return None
        try:
            sequel = sequel_of(message)
        except InvalidArgument as error:
            logger.warning("dropped the sequel of round %d: %s", done.round, error)
            return None
        item_of = {item.sequence: item for item in sequel.items}
        parts = go_on(sequel, self._verdicts, end_tokens=self._end_tokens)
        done.going_on.extend(map(going_to_wire, parts))
        items = [_item(part, item_of[part.sequence]) for part in parts]
        return fleet_pb2.Round(round=sequel.round, items=items) if items else None

    def _objection(self, item: fleet_pb2.Round.Item) -> fleet_pb2.Failure | None:
        """Why this item is not about the sequence as it is here, if it is not."""
        known = self._open.get(item.sequence)
        refused = self._refused.get(item.sequence)
        if refused is not None and refused.epoch == item.epoch:
            return refused
        if known is not None and (known.epoch, known.position) == (item.epoch, item.position):
            return None
        self.num_stale += 1
        here = f"epoch {known.epoch}, position {known.position}" if known is not None else "not open"
        return _failure(item, _STALE, f"asked about epoch {item.epoch}, position {item.position}; here it is {here}")

    def _less_what_is_cached(self, piece: Verify) -> Verify | None:
        """The router cuts prompts into chunks without knowing what the prefix cache has of them. A chunk decides
        nothing, so the last token always stays for the piece that is no chunk; None where that is all there is.
        """
        if piece.num_pending is None:
            return piece
        num_pending = min(piece.num_pending, self._engine.num_pending(piece.sequence) - 1)
        return replace(piece, num_pending=num_pending) if num_pending > 0 else None

    def _step(self, items: Sequence[fleet_pb2.Round.Item], work: Sequence[Verify], done: fleet_pb2.RoundDone) -> None:
        """One step of the engine. Items that it refuses hear why and the others are done without them; where something
        else is wrong, all hear of it."""
        look = self.pruner.begin(work, self._cost) if self.pruner is not None and self._cost else None
        try:
            result: StepResult = self._engine.step(work, hook=look)
        except RankLost:
            raise
        except SpecfleetError as error:
            logger.warning("round %d was refused: %s", done.round, error)
            fitting = self._fitting(items, work, done)
            if len(fitting) == len(work):
                done.failures.extend(_failure(item, type(error).__name__, error.message) for item in items)
            elif fitting:
                self._step([items[index] for index in fitting], [work[index] for index in fitting], done)
            return
        if look is not None and self.pruner is not None:
            self.pruner.settle(look, work, result.outcomes)
        elif self.pruner is not None:
            self._cost.observe(result.report)  # looks take time of their own, which is no row's
        for item, outcome in zip(items, result.outcomes, strict=True):
            if isinstance(outcome, Verdict):
                self._open[item.sequence].position = outcome.next_position
                self._verdicts[outcome.sequence] = outcome
                done.verdicts.append(verdict_to_wire(outcome))
            elif isinstance(outcome, Internal):
                done.failures.append(_failure(item, type(outcome).__name__, outcome.message))
        done.report.CopyFrom(report_to_wire(result.report))

    def _fitting(
        self, items: Sequence[fleet_pb2.Round.Item], work: Sequence[Verify], done: fleet_pb2.RoundDone
    ) -> list[int]:
        """Indices of the items that make a step together, first come first served; the others fail."""
        fitting: list[int] = []
        for index, item in enumerate(items):
            try:
                self._engine.check([work[other] for other in (*fitting, index)])
            except SpecfleetError as error:
                done.failures.append(_failure(item, type(error).__name__, error.message))
            else:
                fitting.append(index)
        return fitting


def _item(part: SequelPart, item: SequelItem) -> fleet_pb2.Round.Item:
    nodes = nodes_to_wire(nodes_below(item, part.chosen))
    return fleet_pb2.Round.Item(sequence=int(part.sequence), epoch=part.epoch, position=part.position, nodes=nodes)


def _failure(about: fleet_pb2.Opening | fleet_pb2.Round.Item, code: str, reason: str) -> fleet_pb2.Failure:
    return fleet_pb2.Failure(sequence=about.sequence, epoch=about.epoch, code=code, reason=reason)
