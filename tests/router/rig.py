"""A fleet without a network: the real scheduler, engine and drafters, their messages carried in an order of choice."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from contracts.clock import VirtualClock
from contracts.errors import OutOfBlocks
from contracts.types import (
    DrafterId,
    DraftNode,
    Epoch,
    Feedback,
    SamplingParams,
    SequenceId,
    StepReport,
    TenantId,
    TokenLogprob,
    Verdict,
)
from engine.engine import Engine
from engine.work import StepResult, Verify
from router.modes import mode_parts
from router.orders import (
    Draft,
    DrafterOffer,
    DrafterOrders,
    Drafts,
    Failure,
    RoundDone,
    RoundItem,
    RoundOrder,
    VerifierOffer,
    VerifierOrders,
)
from router.scheduler import Scheduler
from router.sequence import RoutedSequence
from speculation.fusion import FusionKind
from speculation.sequel import Sequel, SequelPart, go_on, nodes_below
from workers.drafters.drafter import Ask, Commit, Drafter, Opening

TENANT = TenantId("t")


@dataclass
class Collected:
    """An output that keeps what it is told and ends after so many tokens."""

    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    guessed_by: list[DrafterId | None] = field(default_factory=list)
    has_ended: bool = False
    failure: str = ""

    def take(
        self, tokens: Sequence[int], guessed_by: Sequence[DrafterId | None], logprobs: Sequence[TokenLogprob]
    ) -> bool:
        assert not self.has_ended, "tokens after the end"
        room = self.max_tokens - len(self.tokens)
        self.tokens += tokens[:room]
        self.guessed_by += guessed_by[:room]
        self.has_ended = len(self.tokens) == self.max_tokens
        return self.has_ended

    def fail(self, code: str, reason: str) -> None:
        self.failure, self.has_ended = f"{code}: {reason}", True


class EngineVerifier:
    """A verifier group as a function call: rounds are answered when told to."""

    def __init__(self, engine: Engine, clock: VirtualClock) -> None:
        self.engine, self.clock = engine, clock
        self.orders: deque[VerifierOrders] = deque()
        self.num_rows: list[int] = []
        self.num_unasked = 0
        """Rounds that it began without being asked."""
        self.epochs: dict[SequenceId, Epoch] = {}
        self._sequel: Sequel | None = None
        self._due: RoundOrder | None = None

    def send(self, orders: VerifierOrders) -> None:
        self.orders.append(orders)

    def offer(self) -> VerifierOffer:
        limits = self.engine.limits
        return VerifierOffer(
            name="verifier",
            model=self.engine.identity,
            num_ranks=1,
            max_context=limits.max_context,
            max_batch_rows=limits.max_batch_rows,
            num_blocks=self.engine.num_free_blocks,
            block_tokens=16,
            eos_token_ids=frozenset(),
            num_real_tokens=limits.num_real_tokens,
            probes=tuple(
                StepReport(num_rows=rows, num_context=rows, num_sequences=1, elapsed_s=0.02 + 0.0002 * rows)
                for rows in (1, 8, 64)
            ),
            device="cpu",
        )

    @property
    def has_work(self) -> bool:
        return bool(self.orders or self._due is not None)

    def work(self, rng: random.Random) -> RoundDone | None:
        """Goes on with what is due, or does the oldest message; what came of its round."""
        if self._due is not None and (not self.orders or rng.random() < 0.5):
            due, self._due = self._due, None
            return self._round(due)
        orders = self.orders.popleft()
        self._sequel = orders.sequel or self._sequel
        for sequence in orders.close:
            self.engine.close(sequence)
            del self.epochs[sequence]
        for opened in orders.open:
            self.epochs[opened.sequence] = opened.epoch
            self.engine.open(
                opened.sequence,
                opened.tokens,
                opened.sampling,
                num_prompt=opened.num_prompt,
                tenant=opened.tenant,
                epoch=opened.epoch,
            )
        return self._round(orders.round) if orders.round is not None else None

    def _round(self, order: RoundOrder) -> RoundDone:
        items = [item for item in order.items if self._is_current(item)]
        work = []
        for item in items:
            pending = self.engine.num_pending(item.sequence)
            num_pending = None if item.num_pending is None else min(item.num_pending, pending)
            work.append(Verify(sequence=item.sequence, num_pending=num_pending, nodes=item.nodes, masks=item.masks))
        began_s = self.clock.wall_s()
        result: StepResult | None = None
        outcomes: Sequence[object] = ()
        if work:
            try:
                result = self.engine.step(work)
                outcomes = result.outcomes
            except OutOfBlocks as error:
                outcomes = [error] * len(work)
        self.num_rows += [result.report.num_rows] if result is not None else []
        self.clock.advance(0.02)
        verdicts = {
            outcome.sequence: replace(
                outcome,
                feedback=tuple(
                    Feedback(parent_accepted=False, chosen=False, pruned=each.pruned) for each in outcome.feedback
                ),
            )
            for outcome in outcomes
            if isinstance(outcome, Verdict)
        }
        stale = [
            Failure(sequence=item.sequence, epoch=item.epoch, code="Stale", reason="not as it is here")
            for item in order.items
            if item not in items
        ]
        failures = [
            Failure(sequence=piece.sequence, epoch=Epoch(0), code=type(outcome).__name__, reason=str(outcome))
            for piece, outcome in zip(work, outcomes, strict=True)
            if isinstance(outcome, Exception)
        ]
        return RoundDone(
            round=order.round,
            verdicts=tuple(verdicts.values()),
            failures=(*stale, *failures),
            report=replace(result.report, elapsed_s=0.02) if result is not None else None,
            began_s=began_s,
            num_free_blocks=self.engine.num_free_blocks,
            going_on=self._go_on(order.round, verdicts),
        )

    def _is_current(self, item: RoundItem) -> bool:
        return (
            self.epochs.get(item.sequence) == item.epoch and len(self.engine.tokens_of(item.sequence)) == item.position
        )

    def _go_on(self, number: int, verdicts: Mapping[SequenceId, Verdict]) -> tuple[SequelPart, ...]:
        """As the worker does: with a sequel that was said before the round was over, or is among what waits."""
        said = [self._sequel, *(orders.sequel for orders in self.orders)]
        sequel = next((each for each in said if each is not None and each.after == number), None)
        parts = go_on(sequel, verdicts) if sequel is not None else ()
        if sequel is not None and parts:
            self.num_unasked += 1
            item_of = {item.sequence: item for item in sequel.items}
            self._due = RoundOrder(
                round=sequel.round,
                items=tuple(
                    RoundItem(
                        sequence=part.sequence,
                        epoch=part.epoch,
                        position=part.position,
                        nodes=nodes_below(item_of[part.sequence], part.chosen),
                    )
                    for part in parts
                ),
            )
        return parts


class InlineDrafter:
    """A drafter node as a function call: takes the oldest message, then drafts what it is to draft."""

    def __init__(self, drafter: Drafter, name: str, *, has_logits: bool = True) -> None:
        self.drafter, self.name, self.has_logits = drafter, DrafterId(name), has_logits
        self.orders: deque[DrafterOrders] = deque()
        self._positions: dict[SequenceId, tuple[Epoch, int]] = {}
        self._standing: dict[SequenceId, Ask] = {}

    def send(self, orders: DrafterOrders) -> None:
        self.orders.append(orders)

    def offer(self) -> DrafterOffer:
        return DrafterOffer(
            drafter=self.name,
            kind=self.drafter.kind,
            model=None,
            has_logits=self.has_logits,
            num_logprobs=0,
            capacity=64,
            step_s=0.001,
            prefill_s_per_token=0.0,
            max_context=512,
            device="cpu",
        )

    def work(self) -> Drafts | None:
        orders = self.orders.popleft()
        if orders.close:
            self.drafter.close(orders.close)
            for sequence in orders.close:
                del self._positions[sequence]
                self._standing.pop(sequence, None)
        if orders.open:
            self.drafter.open(
                [
                    Opening(sequence=each.sequence, tenant=each.tenant, tokens=each.tokens, sampling=each.sampling)
                    for each in orders.open
                ]
            )
            for each in orders.open:
                self._positions[each.sequence] = each.epoch, len(each.tokens)
        asks: dict[SequenceId, Ask] = {}
        for news in orders.commit:
            self.drafter.commit([Commit(sequence=news.sequence, position=news.position, tokens=news.tokens)])
            epoch, position = self._positions[news.sequence]
            assert position == news.position, "a commit was lost"
            self._positions[news.sequence] = epoch, position + len(news.tokens)
            if (standing := self._standing.get(news.sequence)) is not None:
                asks[news.sequence] = standing
        for wish in orders.want:
            ask = Ask(
                sequence=wish.sequence,
                num_nodes=wish.num_nodes,
                below=wish.below,
                max_depth=wish.max_depth or None,
                max_children=wish.max_children or None,
            )
            asks[wish.sequence] = ask
            self._standing.pop(wish.sequence, None)
            if wish.run_ahead:
                self._standing[wish.sequence] = ask
        if not asks:
            return None
        trees = self.drafter.propose(list(asks.values()))
        return Drafts(
            drafts=tuple(
                Draft(
                    sequence=sequence,
                    epoch=self._positions[sequence][0],
                    position=self._positions[sequence][1],
                    below=asks[sequence].below,
                    nodes=nodes,
                    is_last=True,
                )
                for sequence, nodes in zip(asks, trees, strict=True)
            ),
            steps=(StepReport(num_rows=1, num_context=1, num_sequences=len(asks), elapsed_s=0.001),),
            began_s=0.0,
            ended_s=0.001,
        )


class GarbageDrafter:
    """Proposes what chance says, and sometimes the truth."""

    kind = "garbage"
    has_logits = True
    num_logprobs = 0

    def __init__(self, name: str, seed: int, truth: Callable[[Sequence[int]], Sequence[int]] | None = None) -> None:
        self.name, self.rng, self.truth = DrafterId(name), random.Random(seed), truth
        self.texts: dict[SequenceId, list[int]] = {}

    def open(self, openings: Sequence[Opening]) -> None:
        for opening in openings:
            self.texts[opening.sequence] = list(opening.tokens)

    def commit(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self.texts[commit.sequence] += commit.tokens

    def close(self, sequences: Sequence[SequenceId]) -> None:
        for sequence in sequences:
            del self.texts[sequence]

    def propose(self, asks: Sequence[Ask]) -> list[tuple[DraftNode, ...]]:
        return [self._tree(ask) for ask in asks]

    def _tree(self, ask: Ask) -> tuple[DraftNode, ...]:
        nodes: list[DraftNode] = []
        taken: set[tuple[int, int]] = set()
        right = list(self.truth(self.texts[ask.sequence])) if self.truth is not None else []
        right = right[len(ask.below) :] if tuple(right[: len(ask.below)]) == ask.below else []
        trunk = -1
        for _ in range(self.rng.randint(0, ask.num_nodes)):
            depth = sum(1 for node in nodes if node.drafter == self.name and node.confidence == 0.9)
            if right and depth < len(right) and self.rng.random() < 0.7:
                parent, token, confidence = trunk, right[depth], 0.9
                trunk = len(nodes)
            else:
                parent = self.rng.randint(-1, len(nodes) - 1)
                token, confidence = self.rng.randrange(40), self.rng.random() * 0.3
            if (parent, token) in taken:
                break
            taken.add((parent, token))
            nodes.append(DraftNode(token=token, parent=parent, confidence=confidence, drafter=self.name))
        return tuple(nodes)


class Fleet:
    """Scheduler, verifier and drafters; `run` carries messages in a random order until all is said."""

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int = 0,
        max_running: int = 64,
        fusion: FusionKind | None = None,
        is_priced: bool = False,
    ) -> None:
        self.clock = VirtualClock()
        self.rng = random.Random(seed)
        self.scheduler = Scheduler(self.clock, max_running=max_running, fusion=fusion, is_priced=is_priced)
        self.verifier = EngineVerifier(engine, self.clock)
        self.drafters: dict[DrafterId, InlineDrafter] = {}
        self.outputs: dict[SequenceId, Collected] = {}
        self.scheduler.verifier_joined(self.verifier.offer(), self.verifier)

    def add(self, drafter: InlineDrafter) -> None:
        self.drafters[drafter.name] = drafter
        self.scheduler.drafter_joined(drafter.offer(), drafter)

    def remove(self, name: DrafterId) -> None:
        del self.drafters[name]
        self.scheduler.drafter_left(name)

    def submit(
        self,
        name: str,
        tokens: Sequence[int],
        sampling: SamplingParams,
        *,
        mode: str,
        max_tokens: int,
        max_draft: int = 6,
    ) -> Collected:
        output = Collected(max_tokens)
        self.outputs[SequenceId(name)] = output
        self.scheduler.submit(
            RoutedSequence(
                id=SequenceId(name),
                tenant=TENANT,
                tokens=list(tokens),
                num_prompt=len(tokens),
                max_tokens=max_tokens,
                sampling=sampling,
                parts=mode_parts(mode),
                max_draft=max_draft,
                drafting=self.scheduler.roster.open(TENANT, tokens, temperature=sampling.temperature),
                output=output,
            )
        )
        return output

    def run(self, between: Callable[[], None] = lambda: None, *, max_events: int = 20_000) -> None:
        """Until every sequence has ended. `between` may do whatever happens in the world."""
        for _ in range(max_events):
            after_s = self.scheduler.tick()
            if all(output.has_ended for output in self.outputs.values()):
                return
            between()
            if not self._one_event() and after_s is not None:
                self.clock.advance(after_s + 1e-6)
        raise AssertionError("sequences did not end")

    def settle(self) -> None:
        """Lets every message that is still on its way arrive."""
        self.scheduler.tick()
        while self._one_event():
            self.scheduler.tick()

    def _one_event(self) -> bool:
        able: list[EngineVerifier | InlineDrafter] = [each for each in self.drafters.values() if each.orders]
        able += [self.verifier] if self.verifier.has_work else []
        if not able:
            return False
        if self.rng.random() < 0.3:  # time passes, and what the scheduler wanted to do by then becomes due
            self.clock.advance(0.018)
            self.scheduler.tick()
        chosen = self.rng.choice(able)
        if isinstance(chosen, EngineVerifier):
            done = chosen.work(self.rng)
            if done is not None:
                self.scheduler.round_done(done)
        else:
            drafts = chosen.work()
            self.clock.advance(0.001)
            if drafts is not None:
                self.scheduler.drafts(chosen.name, drafts)
        return True
