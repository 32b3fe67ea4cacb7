"""Everything that a run is to measure, one cell and one load after another, into its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import product

from benchmarks.peers.arrivals import LOADS, measure_arrivals, measure_capacity
from benchmarks.peers.fleet import FleetMode
from benchmarks.peers.peer import Ask, Peer, is_ours
from benchmarks.peers.record import Record
from benchmarks.peers.turns import Cell, Turn, alternate
from benchmarks.peers.workloads import Workload

__all__ = ["Amounts", "Measuring"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    temperatures: Sequence[float]
    together: Sequence[int]
    alternations: int
    max_tokens: int
    """Of an answer."""
    arrival_s: float
    """Of each load that arrives; 0: none arrives."""
    arrival_alternations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What the record has already is not measured again."""

    works: Sequence[Workload]
    amounts: Amounts
    record: Record
    say: Callable[[str], None]
    _taught: set[str] = field(default_factory=set, init=False)
    """Workloads of which our router has had the lessons: every start begins with none."""

    def is_whole(self, names: Sequence[str]) -> bool:
        """Whether peers of these names have nothing left to do."""
        has_cells = not any(self._num_missing(cell) for cell in self._cells())
        has_arrivals = self.record.arrivals.keys() == LOADS.keys() or self.amounts.arrival_s == 0.0
        has_spans = bool(self.record.spans) or "fleet" not in names
        return has_cells and has_spans and (has_arrivals or not any(map(is_ours, names)))

    async def go_on(self, peers: Sequence[Peer], *, seconds: float) -> None:
        """All that is missing, as far as there is time."""
        ends_s, cells = time.monotonic() + seconds, self._cells()
        for cell, work in cells.items():
            await self._measure_cell(cell, work, peers, ends_s)
        modes = [peer for peer in peers if isinstance(peer, FleetMode)]
        if modes and self.amounts.arrival_s > 0.0:
            await self._measure_arrivals(modes, ends_s)
        if time.monotonic() >= ends_s:
            num_measured = sum(self.amounts.alternations - self._num_missing(cell) for cell in cells)
            num_all = self.amounts.alternations * len(cells)
            self.say(f"time is up, with {num_measured} of {num_all} alternations measured")
        if (fleets := [mode for mode in modes if mode.name == "fleet"]) and not self.record.spans:
            question = self.works[0].warm_up[0]
            self.record.add_spans(await fleets[0].watched(question, max_tokens=self.amounts.max_tokens))

    def _cells(self) -> dict[Cell, Workload]:
        return {
            Cell(workload=work.name, temperature=temperature, together=together): work
            for work, temperature, together in product(self.works, self.amounts.temperatures, self.amounts.together)
        }

    def _num_missing(self, cell: Cell) -> int:
        return max(self.amounts.alternations - len(self.record.alternations(cell)), 0)

    async def _measure_cell(self, cell: Cell, work: Workload, peers: Sequence[Peer], ends_s: float) -> None:
        def is_through() -> bool:
            return not self._num_missing(cell) or time.monotonic() >= ends_s

        def tell(turn: Turn) -> None:
            self.say(f"{turn.cell.name}: {turn.peer} {turn.tokens_per_s:.1f} tokens/s")

        if is_through():
            return
        await self._teach(work, peers)
        max_tokens = self.amounts.max_tokens
        first = len(self.record.alternations(cell))
        alternations = alternate(cell, work, peers, first=first, max_tokens=max_tokens, on_turn=tell)
        async with aclosing(alternations):
            async for turns in alternations:
                self.record.add_alternation(turns)
                if is_through():
                    return

    async def _teach(self, work: Workload, peers: Sequence[Peer]) -> None:
        fleet = next((peer for peer in peers if peer.name == "fleet"), None)
        if fleet is None or not work.lessons or work.name in self._taught:
            return
        self._taught.add(work.name)
        self.say(f"{work.name}: {len(work.lessons)} lessons for the router")
        ask = Ask(max_tokens=self.amounts.max_tokens, temperature=0.0, seed=1, together=1)
        await fleet.answer(work.lessons, ask)

    async def _measure_arrivals(self, modes: Sequence[FleetMode], ends_s: float) -> None:
        work, amounts, record = self.works[0], self.amounts, self.record
        loads = [load for load in LOADS if load not in record.arrivals]
        if loads and time.monotonic() < ends_s:
            await self._teach(work, modes)
            ask = Ask(max_tokens=amounts.max_tokens, temperature=0.0, seed=1, together=max(amounts.together))
            for mode in modes:  # where a run goes on, nobody may have been asked anything yet
                await mode.answer(work.warm_up, ask)
        for load in loads:
            if time.monotonic() >= ends_s:
                return
            if (capacity := record.capacity) is None:
                capacity = await measure_capacity(modes[0], work, max_tokens=amounts.max_tokens)
                record.add_capacity(capacity)
                self.say(f"off answers {capacity:.2f} requests per second")
            arrivals = await measure_arrivals(
                load,
                modes,
                work,
                capacity=capacity,
                seconds=amounts.arrival_s,
                num_alternations=amounts.arrival_alternations,
                max_tokens=amounts.max_tokens,
            )
            record.add_arrivals(load, arrivals)
            for each in arrivals:
                self.say(f"{load} load, {each.mode}: median latency {each.latency_s['p50']:.2f} s")
