"""What drafters say at any place of a recorded answer, however deep they draft there and whichever way.

A trace holds the tree that each drafter answers at each place. A drafter that is a model says the same at a place
whatever it was asked before, so along the target's path its deeper nodes are the first nodes of the trees recorded
further on: chains and run-ahead of any depth follow from small trees. Beside the target's path a trace knows a tree's
own nodes only. What comes below them is made up with confidences that the drafter had beside the path elsewhere: it
is never accepted, so all that matters is how long a drafter goes on with it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from benchmarks.traces.trace import Request, Trace
from contracts.types import ROOT, DrafterId, DraftNode

__all__ = ["Place", "RecordedSpeech", "Said", "Speech", "made_up"]

Said = tuple[tuple[int, float], ...]
"""Tokens that may come next with raw confidences, the drafter's own choice first."""

_MADE_UP = 1 << 30  # tokens that no vocabulary has
_NUM_MADE_UP = 1 << 20


class Place(NamedTuple):
    """`num` tokens of the answer, then tokens `beside` it: the first of them is not the answer's next."""

    num: int
    beside: tuple[int, ...] = ()

    def then(self, request: Request, token: int) -> Place:
        if not self.beside and self.num < len(request.answer) and request.answer[self.num] == token:
            return Place(self.num + 1)
        return Place(self.num, (*self.beside, token))


class Speech(Protocol):
    """See the module."""

    @property
    def drafters(self) -> tuple[DrafterId, ...]: ...

    def said(self, request: Request, drafter: DrafterId, place: Place) -> Said:
        """Nothing at and after the end of the answer."""
        ...


class RecordedSpeech:
    """A trace as speech."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.drafters = trace, trace.drafters
        self._beside = {drafter: beside_confidences(trace, drafter) for drafter in trace.drafters}

    def said(self, request: Request, drafter: DrafterId, place: Place) -> Said:
        if place.num >= len(request.answer):
            return ()
        tree = self.trace.tree(request, place.num, drafter)
        at = ROOT
        for token in place.beside:
            below = next((n for n, node in enumerate(tree) if node.parent == at and node.token == token), None)
            if below is None:
                return made_up(self._beside[drafter], request, drafter, place)
            at = below
        found = tuple((node.token, node.confidence) for node in tree if node.parent == at)
        return found if found or not place.beside else made_up(self._beside[drafter], request, drafter, place)


def made_up(confidences: list[tuple[float, ...]], request: Request, drafter: DrafterId, place: Place) -> Said:
    """Tokens that nobody else says, with confidences of another place: always the same at the same place."""
    if not confidences:
        return ()
    mixed = hash((request.seed, request.first_place, _number(drafter), place.num, place.beside))
    drawn = confidences[mixed % len(confidences)]
    return tuple((_MADE_UP + (mixed // 7 + rank) % _NUM_MADE_UP, confidence) for rank, confidence in enumerate(drawn))


def beside_confidences(trace: Trace, drafter: DrafterId, *, num_requests: int = 48) -> list[tuple[float, ...]]:
    """The confidences of children below a first choice that was wrong, of some requests spread over the trace."""
    found: list[tuple[float, ...]] = []
    for request in trace.requests[:: max(len(trace.requests) // num_requests, 1)]:
        for index in range(len(request.answer)):
            tree = trace.tree(request, index, drafter)
            if tree and tree[0].token != request.answer[index] and (below := _children(tree, 0)):
                found.append(below)
    return found


def _children(tree: tuple[DraftNode, ...], parent: int) -> tuple[float, ...]:
    return tuple(node.confidence for node in tree if node.parent == parent)


def _number(drafter: DrafterId) -> int:
    """Of a name, the same in every process: hashes of strings are not."""
    return int.from_bytes(drafter.encode()[-7:], "little")
