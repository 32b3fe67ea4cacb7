"""The round after the one that runs, prepared while it runs, so that the verifier goes on at once when it is over.

Between two rounds lie two messages and a decision, while the target does nothing. But what the decision needs is known
before, save for the verdicts: the trees, and what a row must be worth. So a sequel carries these ahead of time: of each
sequence the upper part of its tree, in flight and below; the price of a row; and the number of expected tokens from
which going on beats waiting for drafts that are due. With the verdicts in hand the verifier walks each tree to its new
root, and what survived there goes into the next round if it is worth its row (FASER's frontiers, arXiv 2604.20503;
speculative speculation's ready subtrees, 2603.03251). Where too little survived it asks, as if there were no sequel.

Whoever prepared it hears which nodes were chosen as indices, and its own tree re-roots to the same place.
Non-anticipating as every choice of a round: values, costs and verdicts that are out; nothing of the target's noise.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DraftNode, Epoch, SequenceId, Verdict

__all__ = ["Sequel", "SequelItem", "SequelPart", "go_on", "nodes_below"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequelItem:
    """A sequence of the round that runs: `nodes` hang below its root there, parents first, and `position` is that of
    the first token the round decides. `num_left` tokens may be decided from there, the round's own included."""

    sequence: SequenceId
    epoch: Epoch
    position: int
    nodes: tuple[DraftNode, ...] = ()
    max_nodes: int = 0
    num_left: int

    def __post_init__(self) -> None:
        for index, node in enumerate(self.nodes):
            if not ROOT <= node.parent < index:
                raise InvalidArgument(
                    f"node {index} of the sequel of {self.sequence} has parent {node.parent}; it is {ROOT} or an "
                    "earlier node"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequel:
    """Round `round` follows `after`: a node of value below `min_value` is not worth its row, and a round in which less
    than `min_tokens` tokens are expected of a sequence, on average, is not begun without asking."""

    round: int
    after: int
    items: tuple[SequelItem, ...]
    max_rows: int
    min_value: float = 0.0
    min_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SequelPart:
    """What the next round checks of one sequence: indices into the nodes of its item, parents first."""

    sequence: SequenceId
    epoch: Epoch
    position: int
    chosen: tuple[int, ...] = ()


def go_on(
    sequel: Sequel, verdicts: Mapping[SequenceId, Verdict], *, end_tokens: Set[int] = frozenset()
) -> tuple[SequelPart, ...]:
    """What to go on with, in the order of the items; nothing where it is better to ask, because a sequence has no
    verdict, or too little survived. A sequence that decided its last token, or one of `end_tokens`, stays behind."""
    growths: list[_Below] = []
    for item in sequel.items:
        verdict = verdicts.get(item.sequence)
        if verdict is None or (verdict.epoch, verdict.position) != (item.epoch, item.position):
            return ()
        if item.num_left > len(verdict.tokens) and end_tokens.isdisjoint(verdict.tokens):
            growths.append(_Below(item, verdict.tokens))
    num_rows, tokens = len(growths), float(len(growths))
    heads = [(-below.value(first), index, first) for index, below in enumerate(growths) for first in below.roots]
    heapq.heapify(heads)
    while heads and num_rows < sequel.max_rows:
        negated, index, node = heapq.heappop(heads)
        if -negated < sequel.min_value:
            break
        below = growths[index]
        if below.take(node):
            num_rows += 1
            tokens -= negated
            for child in below.children(node):
                heapq.heappush(heads, (-below.value(child), index, child))
    return tuple(below.part() for below in growths) if tokens >= sequel.min_tokens * len(growths) else ()


def nodes_below(item: SequelItem, chosen: Sequence[int]) -> tuple[DraftNode, ...]:
    """Chosen nodes of an item as a frontier of their own, whose root is where their uppermost hang."""
    place = {node: index for index, node in enumerate(chosen)}
    nodes = [item.nodes[index] for index in chosen]
    return tuple(
        DraftNode(
            token=node.token, parent=place.get(node.parent, ROOT), confidence=node.confidence, drafter=node.drafter
        )
        for node in nodes
    )


class _Below:
    """What is left of an item's tree below the last of the decided tokens, and how much of it was taken."""

    def __init__(self, item: SequelItem, decided: Sequence[int]) -> None:
        self._item = item
        self._position = item.position + len(decided)
        self._max_depth = item.num_left - len(decided) - 1
        self._children: dict[int, list[int]] = {}
        for index, node in enumerate(item.nodes):
            self._children.setdefault(node.parent, []).append(index)
        self._taken: list[int] = []
        root: int | None = ROOT
        for token in decided:
            below = self._children.get(root, []) if root is not None else []
            root = next((child for child in below if item.nodes[child].token == token), None)
        self.roots = tuple(self._children.get(root, ())) if root is not None else ()
        self._value_and_depth: dict[int, tuple[float, int]] = {}

    def value(self, node: int) -> float:
        """The chance that the target's choices lead to it, as its parents', which were asked before, and its own."""
        above, depth = self._value_and_depth.get(self._item.nodes[node].parent, (1.0, 0))
        value = above * self._item.nodes[node].confidence
        self._value_and_depth[node] = value, depth + 1
        return value

    def children(self, node: int) -> Sequence[int]:
        return self._children.get(node, ())

    def take(self, node: int) -> bool:
        """Puts it into the round, unless it is too deep or there are enough of this sequence."""
        if self._value_and_depth[node][1] > self._max_depth or len(self._taken) >= self._item.max_nodes:
            return False
        self._taken.append(node)
        return True

    def part(self) -> SequelPart:
        return SequelPart(
            sequence=self._item.sequence, epoch=self._item.epoch, position=self._position, chosen=tuple(self._taken)
        )
