"""Peers in turn, alternation by alternation, so that what the machine does to one it does to all."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from benchmarks.peers.peer import Ask, Peer, Said
from benchmarks.peers.processes import cpu_s, forget_peak, peak_bytes
from benchmarks.peers.workloads import Question, Workload

__all__ = ["Cell", "Turn", "alternate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What all peers of a comparison are asked, and how."""

    workload: str
    temperature: float
    together: int

    @property
    def name(self) -> str:
        return f"{self.workload}, temperature {self.temperature:g}, {self.together} at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one peer did in one alternation."""

    cell: Cell
    peer: str
    elapsed_s: float
    cpu_s: float
    """Of all its processes."""
    peak_bytes: int
    router_s: float | None
    """Per round; None where there is no router."""
    answers: tuple[Said, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.answers)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.elapsed_s

    @property
    def first_token_s(self) -> float:
        return statistics.median(answer.first_token_s for answer in self.answers)

    @property
    def token_s(self) -> float:
        """Median over answers; 0 where none has two tokens."""
        return statistics.median([answer.token_s for answer in self.answers if answer.token_s is not None] or [0.0])

    @property
    def tokens_per_round(self) -> float:
        return self.num_tokens / sum(answer.num_rounds for answer in self.answers)

    @property
    def cpu_s_per_token(self) -> float:
        return self.cpu_s / self.num_tokens

    def accepted_at(self, depth: int) -> float:
        """Share of the rounds in which the draft token so deep, from 1, was accepted."""
        accepted = sum(sum(answer.acceptance_histogram[depth:]) for answer in self.answers)
        return accepted / sum(answer.num_rounds for answer in self.answers)


async def alternate(
    cell: Cell, work: Workload, peers: Sequence[Peer], *, first: int, max_tokens: int, on_turn: Callable[[Turn], None]
) -> AsyncGenerator[list[Turn]]:
    """One alternation after another from this one on, each a turn of every peer that can. Before the first each warms
    up by another."""
    ask = Ask(max_tokens=max_tokens, temperature=cell.temperature, seed=1, together=cell.together)
    able = [peer for peer in peers if peer.max_together is None or cell.together <= peer.max_together]
    if not able:
        return
    for peer in able:
        await peer.answer(work.of_turn(work.warm_up, together=cell.together), ask)
    for questions in work.alternations[first:]:
        turns: list[Turn] = []
        for peer in able:
            turns.append(await _turn(cell, work.of_turn(questions, together=cell.together), peer, ask))
            on_turn(turns[-1])
        yield turns


async def _turn(cell: Cell, questions: Sequence[Question], peer: Peer, ask: Ask) -> Turn:
    processes, router = peer.processes(), peer.router_work()
    forget_peak(processes)
    used_s, began_s = cpu_s(processes), time.perf_counter()
    answers = await peer.answer(questions, ask)
    elapsed_s = time.perf_counter() - began_s
    used_s = cpu_s(processes) - used_s
    router_s = None
    if router is not None and (after := peer.router_work()) is not None:
        router_s = (after.busy_s - router.busy_s) / (after.num_rounds - router.num_rounds)
    return Turn(
        cell=cell,
        peer=peer.name,
        elapsed_s=elapsed_s,
        cpu_s=used_s,
        peak_bytes=peak_bytes(processes),
        router_s=router_s,
        answers=tuple(answers),
    )
