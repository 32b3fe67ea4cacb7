"""A verifier group that decides what its speech's target decided, after as long as its machine would take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from benchmarks.simulator.cores import Cores
from benchmarks.simulator.events import Events
from benchmarks.simulator.machines import VerifierMachine, num_keys
from benchmarks.traces.trace import Request
from contracts.types import ROOT, ModelIdentity, SequenceId, StepReport, Verdict
from contracts.verdict import walk
from router.orders import RoundDone, RoundItem, RoundOrder, VerifierOffer, VerifierOrders
from speculation.cost import probe_plan
from speculation.sequel import Sequel, SequelPart, go_on, nodes_below

__all__ = ["SimulatedVerifier"]

_TARGET = ModelIdentity(
    name="simulated",
    architecture="simulated",
    vocab_size=1,
    tokenizer_digest="",
    weights_digest="",
    dtype="none",
    num_parameters=0,
)
_UNKNOWN = -1  # what the target would say off its path; nobody asks


class SimulatedVerifier:
    """A `VerifierLink`. `tell` takes a round's report, after the link's time."""

    def __init__(
        self,
        machine: VerifierMachine,
        events: Events,
        cores: Cores,
        requests: Mapping[SequenceId, Request],
        tell: Callable[[RoundDone], None],
    ) -> None:
        self.machine, self.busy_s = machine, 0.0
        self.num_rounds = self.num_rows = self.num_parts = 0
        self._events, self._cores, self._requests, self._tell = events, cores, requests, tell
        self._orders: deque[VerifierOrders] = deque()
        self._computed: dict[SequenceId, int] = {}
        """How many tokens of each open sequence are computed."""
        self._sequel: Sequel | None = None
        self._is_busy = False

    def offer(self) -> VerifierOffer:
        machine = self.machine
        probes = [
            StepReport(
                num_rows=rows,
                num_context=rows * keys,
                num_sequences=1,
                elapsed_s=machine.cost.cost_s(rows, rows * keys),
            )
            for rows, keys in probe_plan(machine.max_rows, machine.max_context)
        ]
        return VerifierOffer(
            name="verifier",
            model=_TARGET,
            num_ranks=1,
            max_context=machine.max_context,
            max_batch_rows=machine.max_rows,
            num_blocks=machine.num_blocks,
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
            self._computed[item.sequence] += num_pending
            num_context += num_keys(num_pending, self._computed[item.sequence]) + len(item.nodes) * item.position
        alone_s = self.machine.cost.cost_s(num_rows, num_context) if num_rows else 0.0
        self._is_busy, self.num_rounds, self.num_rows = True, self.num_rounds + 1, self.num_rows + num_rows
        began_s = self._events.clock.now_s()

        def end() -> None:
            elapsed_s = self._events.clock.now_s() - began_s
            self.busy_s += elapsed_s
            report = StepReport(
                num_rows=max(num_rows, 1),
                num_context=max(num_context, num_rows, 1),
                num_sequences=max(len(items), 1),
                elapsed_s=max(elapsed_s, 1e-9),
            )
            self._end(order.round, items, report)

        self._cores.run(alone_s, end, num_threads=self.machine.num_threads)

    def _end(self, number: int, items: list[RoundItem], report: StepReport) -> None:
        verdicts = {item.sequence: self._verdict(item) for item in items if item.num_pending is None}
        self.num_parts += len(verdicts)
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
