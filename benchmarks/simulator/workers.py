"""Workers that answer the scheduler's orders from a trace, after as long as their machines would take.

The verifier decides what the recorded target decided; a drafter proposes what the recorded one proposed at the same
place. Messages take the time of their links, and each worker does one thing at a time, as the real ones do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.simulator.events import Events
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine
from benchmarks.traces.trace import Request, Trace
from contracts.types import ROOT, DraftNode, Epoch, ModelIdentity, SequenceId, StepReport, Verdict
from contracts.verdict import walk
from router.orders import (
    Draft,
    DrafterOffer,
    DrafterOrders,
    Drafts,
    Evidence,
    RoundDone,
    RoundItem,
    RoundOrder,
    VerifierOffer,
    VerifierOrders,
    Wish,
)
from speculation.cost import probe_plan
from speculation.sequel import Sequel, SequelPart, go_on, nodes_below

__all__ = ["SimulatedDrafter", "SimulatedVerifier"]

_TRACE = ModelIdentity(
    name="trace",
    architecture="trace",
    vocab_size=1,
    tokenizer_digest="",
    weights_digest="",
    dtype="none",
    num_parameters=0,
)
_UNKNOWN = -1  # what the target would say off its path; nobody asks
_MAX_CONTEXT = 4096
_SCORED_TOKENS = 6

_Path = tuple[int, ...]


class SimulatedVerifier:
    """A `VerifierLink`. `tell` takes a round's report, after the link's time."""

    def __init__(
        self,
        machine: VerifierMachine,
        events: Events,
        requests: Mapping[SequenceId, Request],
        tell: Callable[[RoundDone], None],
    ) -> None:
        self.machine, self.busy_s, self.num_rounds = machine, 0.0, 0
        self._events, self._requests, self._tell = events, requests, tell
        self._orders: deque[VerifierOrders] = deque()
        self._computed: dict[SequenceId, int] = {}
        """How many tokens of each open sequence are computed."""
        self._sequel: Sequel | None = None
        self._is_busy = False

    def offer(self) -> VerifierOffer:
        probes = [
            StepReport(
                num_rows=rows,
                num_context=rows * keys,
                num_sequences=1,
                elapsed_s=self.machine.cost.cost_s(rows, rows * keys),
            )
            for rows, keys in probe_plan(self.machine.max_rows, _MAX_CONTEXT)
        ]
        return VerifierOffer(
            name="verifier",
            model=_TRACE,
            num_ranks=1,
            max_context=_MAX_CONTEXT,
            max_batch_rows=self.machine.max_rows,
            num_blocks=self.machine.num_blocks,
            block_tokens=16,
            eos_token_ids=frozenset(),
            num_real_tokens=2**31 - 1,
            probes=tuple(probes),
            device="simulated",
        )

    def send(self, orders: VerifierOrders) -> None:
        self._events.after(self.machine.link_s, lambda: self._arrive(orders))

    def _arrive(self, orders: VerifierOrders) -> None:
        self._orders.append(orders)
        self._take_orders()

    def _take_orders(self) -> None:
        while self._orders and not self._is_busy:
            orders = self._orders.popleft()
            for sequence in orders.close:
                self._computed.pop(sequence, None)
            for opened in orders.open:
                self._computed[opened.sequence] = 0
            self._sequel = orders.sequel or self._sequel
            if orders.round is not None:
                self._begin(orders.round)

    def _begin(self, order: RoundOrder) -> None:
        items = [item for item in order.items if item.sequence in self._computed]
        num_rows = num_context = 0
        for item in items:
            num_pending = (
                item.position - self._computed[item.sequence] if item.num_pending is None else item.num_pending
            )
            num_rows += num_pending + len(item.nodes)
            num_context += (num_pending + len(item.nodes)) * item.position
            self._computed[item.sequence] += num_pending
        elapsed_s = self.machine.cost.cost_s(num_rows, num_context) if num_rows else 0.0
        self._is_busy, self.busy_s, self.num_rounds = True, self.busy_s + elapsed_s, self.num_rounds + 1
        report = StepReport(
            num_rows=max(num_rows, 1),
            num_context=max(num_context, num_rows, 1),
            num_sequences=max(len(items), 1),
            elapsed_s=max(elapsed_s, 1e-9),
        )
        self._events.after(elapsed_s, lambda: self._end(order.round, items, report))

    def _end(self, number: int, items: list[RoundItem], report: StepReport) -> None:
        verdicts = {item.sequence: self._verdict(item) for item in items if item.num_pending is None}
        for verdict in verdicts.values():
            self._computed[verdict.sequence] = verdict.next_position - 1
        for orders in self._orders:  # what came meanwhile may say how to go on
            self._sequel = orders.sequel or self._sequel
        parts = self._go_on(number, verdicts)
        done = RoundDone(
            round=number,
            verdicts=tuple(verdicts.values()),
            failures=(),
            report=report,
            began_s=0.0,
            num_free_blocks=self.machine.num_blocks,
            going_on=parts,
        )
        self._events.after(self.machine.link_s, lambda: self._tell(done))
        self._events.after(self.machine.handling_s, lambda: self._next(parts))

    def _next(self, parts: tuple[SequelPart, ...]) -> None:
        self._is_busy = False
        if parts and self._sequel is not None:
            item_of = {item.sequence: item for item in self._sequel.items}
            items = tuple(
                RoundItem(
                    sequence=part.sequence,
                    epoch=part.epoch,
                    position=part.position,
                    nodes=nodes_below(item_of[part.sequence], part.chosen),
                )
                for part in parts
            )
            self._begin(RoundOrder(round=self._sequel.round, items=items))
        self._take_orders()

    def _go_on(self, number: int, verdicts: Mapping[SequenceId, Verdict]) -> tuple[SequelPart, ...]:
        sequel = self._sequel
        return go_on(sequel, verdicts) if sequel is not None and sequel.after == number else ()

    def _verdict(self, item: RoundItem) -> Verdict:
        request = self._requests[item.sequence]
        first = item.position - len(request.prompt)
        depths: list[int] = []
        for node in item.nodes:
            depths.append(1 if node.parent == ROOT else depths[node.parent] + 1)
        choices = [_at(request, first + depth) for depth in (0, *depths)]
        accepted = walk(choices, [node.token for node in item.nodes], [node.parent for node in item.nodes])
        accepted = accepted[: len(request.answer) - first - 1]
        tokens = request.answer[first : first + len(accepted) + 1]
        return Verdict(
            sequence=item.sequence, epoch=item.epoch, position=item.position, accepted=tuple(accepted), tokens=tokens
        )


def _at(request: Request, place: int) -> int:
    return request.answer[place] if place < len(request.answer) else _UNKNOWN


@dataclass(slots=True)
class _Followed:
    epoch: Epoch
    position: int
    wish: Wish | None = None
    told: int = 0
    """Depth down to which the tree at this position was told."""
    num_unread: int = 0
    num_to_read: int = 0
    """Tokens that the drafter has to compute before it can draft."""
    known: set[_Path] = field(default_factory=set)
    """Paths below the position that were computed before."""


class SimulatedDrafter:
    """A `DrafterLink`. `tell` takes what it found, after the link's time. It steps all its sequences together."""

    def __init__(
        self,
        machine: DrafterMachine,
        events: Events,
        trace: Trace,
        requests: Mapping[SequenceId, Request],
        tell: Callable[[Drafts], None],
    ) -> None:
        self.machine, self.busy_s, self.num_steps = machine, 0.0, 0
        self._events, self._trace, self._requests, self._tell = events, trace, requests, tell
        self._followed: dict[SequenceId, _Followed] = {}
        self._is_stepping = False

    def offer(self) -> DrafterOffer:
        of = self.machine
        return DrafterOffer(
            drafter=of.drafter,
            kind="trace",
            model=None,
            has_logits=of.has_logits,
            num_logprobs=0,
            capacity=of.capacity,
            step_s=of.step_s,
            prefill_s_per_token=of.prefill_s_per_token,
            max_context=_MAX_CONTEXT,
            device="simulated",
        )

    def send(self, orders: DrafterOrders) -> None:
        self._events.after(self.machine.link_s, lambda: self._arrive(orders))

    def _arrive(self, orders: DrafterOrders) -> None:
        for sequence in orders.close:
            self._followed.pop(sequence, None)
        for opened in orders.open:
            self._followed[opened.sequence] = _Followed(
                epoch=opened.epoch, position=len(opened.tokens), num_to_read=len(opened.tokens)
            )
        evidence: list[Evidence] = []
        for news in orders.commit:
            followed = self._followed.get(news.sequence)
            if followed is not None and (followed.epoch, followed.position) == (news.epoch, news.position):
                self._advance(followed, news.sequence, news.tokens, evidence)
        for wish in orders.want:
            followed = self._followed.get(wish.sequence)
            if followed is not None and (followed.epoch, followed.position) == (wish.epoch, wish.position):
                followed.wish, followed.told = wish, 0
        if evidence:
            self._say((), evidence=tuple(evidence))
        self._step_soon()

    def _advance(self, followed: _Followed, sequence: SequenceId, tokens: _Path, evidence: list[Evidence]) -> None:
        count = len(tokens)
        followed.position += count
        followed.known = {path[count:] for path in followed.known if len(path) > count and path[:count] == tokens}
        followed.told = 0
        if followed.wish is not None and followed.wish.num_nodes == 0:
            followed.num_unread += count
            if followed.num_unread >= _SCORED_TOKENS:
                evidence.append(self._evidence(followed, sequence))
        elif followed.wish is not None and not followed.wish.run_ahead:
            followed.wish = None

    def _evidence(self, followed: _Followed, sequence: SequenceId) -> Evidence:
        request = self._requests[sequence]
        end, count = followed.position - len(request.prompt), followed.num_unread
        followed.num_unread = 0
        agreed = sum(self._trace.matches(request, self.machine.drafter)[end - count : end])
        return Evidence(sequence=sequence, epoch=followed.epoch, num_tokens=count, num_agreed=agreed)

    # Steps

    def _wanting(self) -> dict[SequenceId, _Followed]:
        return {
            sequence: followed
            for sequence, followed in self._followed.items()
            if followed.wish is not None and followed.wish.num_nodes > 0 and followed.told >= 0
        }

    def _step_soon(self) -> None:
        if self._is_stepping or not (wanting := self._wanting()):
            return
        self._is_stepping = True
        reading_s = sum(each.num_to_read for each in wanting.values()) * self.machine.prefill_s_per_token
        for each in wanting.values():
            each.num_to_read = 0
        step_s = self.machine.step_s * (1.0 + self.machine.crowding * (len(wanting) - 1))
        self.busy_s, self.num_steps = self.busy_s + reading_s + step_s, self.num_steps + 1
        at = {sequence: (followed, followed.position, followed.wish) for sequence, followed in wanting.items()}
        self._events.after(reading_s + step_s, lambda: self._stepped(at, step_s))

    def _stepped(self, at: Mapping[SequenceId, tuple[_Followed, int, Wish | None]], step_s: float) -> None:
        self._is_stepping = False
        drafts: list[Draft] = []
        for sequence, (followed, position, wish) in at.items():
            if self._followed.get(sequence) is followed and followed.position == position and followed.wish is wish:
                drafts += self._deeper(sequence, followed)
        report = StepReport(num_rows=len(at), num_context=len(at), num_sequences=len(at), elapsed_s=step_s)
        if drafts:
            self._say(tuple(drafts), steps=(report,))
        self._step_soon()

    def _deeper(self, sequence: SequenceId, followed: _Followed) -> list[Draft]:
        """What one more step finds: the next level, and before it all that had been computed already."""
        wish, request = followed.wish, self._requests[sequence]
        assert wish is not None, "only those that want something step"
        index = followed.position - len(request.prompt)
        tree = self._tree(request, index, wish)
        depths, paths = _depths_and_paths(tree)
        deepest = max(depths, default=0)
        level = followed.told + 1
        while level < deepest and all(
            path in followed.known for path, depth in zip(paths, depths, strict=True) if depth == level
        ):
            level += 1
        nodes = tuple(node for node, depth in zip(tree, depths, strict=True) if depth <= level)
        followed.known |= {path for path, depth in zip(paths, depths, strict=True) if depth <= level}
        is_last = level >= deepest
        followed.told = -1 if is_last else level
        return [
            Draft(
                sequence=sequence,
                epoch=followed.epoch,
                position=followed.position,
                below=(),
                nodes=_of_prefix(tree, nodes),
                is_last=is_last,
            )
        ]

    def _tree(self, request: Request, index: int, wish: Wish) -> tuple[DraftNode, ...]:
        """The recorded tree within the wish's limits; a wish below a path is answered along the target's only."""
        if index >= len(request.answer):
            return ()
        tree = self._trace.tree(request, index, self.machine.drafter)
        kept: list[DraftNode] = []
        place: dict[int, tuple[int, int]] = {ROOT: (ROOT, 0)}
        num_children: dict[int, int] = {}
        for number, node in enumerate(tree):
            if node.parent not in place or len(kept) >= wish.num_nodes:
                continue
            parent, depth = place[node.parent]
            if wish.max_depth and depth >= wish.max_depth:
                continue
            if wish.max_children and num_children.get(parent, 0) >= wish.max_children:
                continue
            num_children[parent] = num_children.get(parent, 0) + 1
            place[number] = len(kept), depth + 1
            kept.append(
                DraftNode(token=node.token, parent=parent, confidence=node.confidence, drafter=self.machine.drafter)
            )
        return tuple(kept)

    def _say(
        self, drafts: tuple[Draft, ...], *, steps: tuple[StepReport, ...] = (), evidence: tuple[Evidence, ...] = ()
    ) -> None:
        message = Drafts(drafts=drafts, steps=steps, began_s=0.0, ended_s=0.0, evidence=evidence)
        self._events.after(self.machine.link_s, lambda: self._tell(message))


def _depths_and_paths(tree: tuple[DraftNode, ...]) -> tuple[list[int], list[_Path]]:
    depths: list[int] = []
    paths: list[_Path] = []
    for node in tree:
        above = () if node.parent == ROOT else paths[node.parent]
        paths.append((*above, node.token))
        depths.append(len(paths[-1]))
    return depths, paths


def _of_prefix(tree: tuple[DraftNode, ...], nodes: tuple[DraftNode, ...]) -> tuple[DraftNode, ...]:
    """A part of a tree that holds every parent, numbered anew."""
    place = {id(node): index for index, node in enumerate(nodes)}
    return tuple(
        DraftNode(
            token=node.token,
            parent=ROOT if node.parent == ROOT else place[id(tree[node.parent])],
            confidence=node.confidence,
            drafter=node.drafter,
        )
        for node in nodes
    )
