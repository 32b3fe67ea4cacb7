"""Answers to asks, as they come: from a model's search in steps, from all other drafters at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.types import DraftNode, SequenceId
from workers.drafters.drafter import Ask, Drafter

__all__ = ["Answers", "AtOnce", "Found"]


class Found(Protocol):
    """The next nodes of the answer to an ask: their parents are indices among all nodes of that answer."""

    @property
    def ask(self) -> int: ...
    @property
    def nodes(self) -> tuple[DraftNode, ...]: ...
    @property
    def is_last(self) -> bool: ...


class Answers(Protocol):
    """What `workers.drafters.model_search.Search` is; there is the meaning of each."""

    @property
    def is_done(self) -> bool: ...
    def add(self, asks: Sequence[Ask]) -> range: ...
    def drop(self, sequence: SequenceId) -> None: ...
    def step(self) -> Sequence[Found]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Whole:
    ask: int
    sequence: SequenceId
    nodes: tuple[DraftNode, ...]
    is_last: bool = True


class AtOnce:
    """The answers of a drafter that has nothing to wait for."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._found: list[_Whole] = []
        self._num_asks = 0

    @property
    def is_done(self) -> bool:
        return not self._found

    def add(self, asks: Sequence[Ask]) -> range:
        numbers = range(self._num_asks, self._num_asks + len(asks))
        for number, ask, tree in zip(numbers, asks, self._drafter.propose(asks), strict=True):
            self._found.append(_Whole(ask=number, sequence=ask.sequence, nodes=tree))
        self._num_asks = numbers.stop
        return numbers

    def drop(self, sequence: SequenceId) -> None:
        self._found = [whole for whole in self._found if whole.sequence != sequence]

    def step(self) -> Sequence[Found]:
        found, self._found = self._found, []
        return found
