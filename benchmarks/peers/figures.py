"""From turns to what is told of them: figures of every peer, ratios between peers, and whose tokens are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.peers import hugging_face, llamacpp
from benchmarks.peers.estimate import Estimate, bootstrapped, ratio
from benchmarks.peers.peer import Said, is_ours
from benchmarks.peers.turns import Cell, Turn

__all__ = ["ASSISTED", "FIGURES", "OFF", "OVERS", "PLAIN", "Ratio", "Row", "Same", "compared", "rows", "same_tokens"]

PLAIN, ASSISTED, OFF = f"{hugging_face.PREFIX}plain", f"{hugging_face.PREFIX}assisted", "off"
OVERS = (PLAIN, ASSISTED, f"{llamacpp.PREFIX}draft", OFF)
_DEPTHS = range(1, 12)

FIGURES: Mapping[str, Callable[[Turn], float]] = {
    "tokens_per_s": lambda turn: turn.tokens_per_s,
    "first_token_s": lambda turn: turn.first_token_s,
    "token_s": lambda turn: turn.token_s,
    "tokens_per_round": lambda turn: turn.tokens_per_round,
    "cpu_s_per_token": lambda turn: turn.cpu_s_per_token,
    "peak_bytes": lambda turn: float(turn.peak_bytes),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peer in one cell."""

    cell: Cell
    peer: str
    num_alternations: int
    figures: dict[str, Estimate]
    accepted_at: tuple[float, ...]
    """By depth from 1, over all alternations."""
    router_s: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Tokens per second of one peer over those of another."""

    cell: Cell
    peer: str
    over: str
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """How many of a peer's answers to a workload are, token by token, those of the first peer that answered it: in each
    alternation, which asks the same in all cells of a workload."""

    workload: str
    temperature: float
    peer: str
    reference: str
    num_same: int
    num_answers: int

    def is_wrong(self, dtypes: set[str]) -> bool:
        """Where tokens differ that must not: ours never; ours and Hugging Face's not in float32."""
        held = all(is_ours(name) for name in (self.peer, self.reference)) or (
            dtypes == {"float32"}
            and all(is_ours(name) or name.startswith(hugging_face.PREFIX) for name in (self.peer, self.reference))
        )
        return held and self.num_same < self.num_answers

    @property
    def told(self) -> str:
        return (
            f"{self.peer} gave {self.num_answers - self.num_same} of {self.num_answers} answers other tokens than "
            f"{self.reference} ({self.workload}, temperature {self.temperature:g})"
        )


def rows(turns: Sequence[Turn]) -> list[Row]:
    found = []
    for (cell, peer), of in _by_peer(turns).items():
        router_s = [turn.router_s for turn in of if turn.router_s is not None]
        found.append(
            Row(
                cell=cell,
                peer=peer,
                num_alternations=len(of),
                figures={name: bootstrapped([figure(turn) for turn in of]) for name, figure in FIGURES.items()},
                accepted_at=tuple(sum(turn.accepted_at(depth) for turn in of) / len(of) for depth in _DEPTHS),
                router_s=bootstrapped(router_s) if router_s else None,
            )
        )
    return found


def compared(turns: Sequence[Turn]) -> list[Ratio]:
    """Every peer over Hugging Face plain and assisted, llama.cpp with a draft model and our own plain decoding, where
    those were measured."""
    by_peer = _by_peer(turns)
    return [
        Ratio(
            cell=cell,
            peer=peer,
            over=over,
            estimate=ratio([t.tokens_per_s for t in of], [t.tokens_per_s for t in by_peer[cell, over]]),
        )
        for (cell, peer), of in by_peer.items()
        for over in OVERS
        if over != peer and (cell, over) in by_peer
    ]


def same_tokens(turns: Sequence[Turn]) -> list[Same]:
    """Of greedy answers, all peers beside the first; of sampled ones ours only, which share their noise."""
    found = []
    pairs = dict.fromkeys((turn.cell.workload, turn.cell.temperature) for turn in turns)
    for (workload, temperature), ours in product(pairs, (False, True)):
        of = [
            turn
            for turn in turns
            if (turn.cell.workload, turn.cell.temperature) == (workload, temperature)
            and (is_ours(turn.peer) if ours else temperature == 0.0)
        ]
        reference = of[0].peer if of else ""
        answers = _answers(of)
        for peer, theirs in answers.items():
            # What the reference was not asked has no other.
            pairs_of = [
                (answer, others[0])
                for place, said in theirs.items()
                if (others := answers[reference].get(place)) is not None
                for answer in said
            ]
            found.append(
                Same(
                    workload=workload,
                    temperature=temperature,
                    peer=peer,
                    reference=reference,
                    num_same=sum(answer.token_ids == other.token_ids for answer, other in pairs_of),
                    num_answers=len(pairs_of),
                )
            )
    return list(dict.fromkeys(found))


def _answers(turns: Sequence[Turn]) -> dict[str, dict[tuple[int, int], list[Said]]]:
    """Of each peer by alternation and place in it, which are the same prompt in every cell; in the order of cells."""
    found: dict[str, dict[tuple[int, int], list[Said]]] = {}
    for (_, peer), alternations in _by_peer(turns).items():
        of_peer = found.setdefault(peer, {})
        for number, turn in enumerate(alternations):
            for place, answer in enumerate(turn.answers):
                of_peer.setdefault((number, place), []).append(answer)
    return found


def _by_peer(turns: Sequence[Turn]) -> dict[tuple[Cell, str], list[Turn]]:
    found: dict[tuple[Cell, str], list[Turn]] = {}
    for turn in turns:
        found.setdefault((turn.cell, turn.peer), []).append(turn)
    return found
