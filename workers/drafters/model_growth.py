"""Best-first growth in pieces: it stops where it has to know what follows, and goes on when it is told.

The same tree, node for node, as `growth.grow` makes when it can ask at once. What is in the tree already is final:
whatever is found below a later place is worth no more than that place, and everything worth more is in.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush, nsmallest
from typing import Generic, NamedTuple, TypeVar

from contracts.types import ROOT
from workers.drafters.growth import MIN_CONFIDENCE, Candidate, Grown

__all__ = ["Growth", "Place"]

Context = TypeVar("Context")


class Place(NamedTuple, Generic[Context]):
    """Where growth looks for children: a node of the tree, or ROOT."""

    node: int
    depth: int
    value: float
    context: Context


class Growth(Generic[Context]):
    """`next` is the place whose children decide how it goes on; None when the tree is done."""

    def __init__(self, root: Context, num_nodes: int, *, max_depth: int) -> None:
        self.tree: list[Grown] = []
        self.next = Place(ROOT, 0, 1.0, root) if num_nodes > 0 and max_depth > 0 else None
        self._num_nodes, self._max_depth = num_nodes, max_depth
        self._waiting: list[tuple[float, int, int, Grown, Context]] = []  # (-value, order of finding, depth, node, ..)
        self._num_found = 0

    def give(self, candidates: Iterable[Candidate[Context]]) -> None:
        """What may come at `next`."""
        if self.next is None:
            return
        parent, depth, value, _ = self.next
        for token, confidence, after in candidates:
            if confidence >= MIN_CONFIDENCE:
                node = Grown(token, parent, min(confidence, 1.0))
                heappush(self._waiting, (-value * node.confidence, self._num_found, depth + 1, node, after))
                self._num_found += 1
        self.next = self._take()

    def _take(self) -> Place[Context] | None:
        """Takes the best nodes into the tree up to the first that can have children in it."""
        while self._waiting and len(self.tree) < self._num_nodes:
            negative_value, _, depth, node, context = heappop(self._waiting)
            self.tree.append(node)
            if depth < self._max_depth and len(self.tree) < self._num_nodes:
                return Place(len(self.tree) - 1, depth, -negative_value, context)
        return None

    def soon(self) -> list[tuple[float, Context]]:
        """Places that it will look at, `next` first, unless something better is found: their values and contexts.

        A node that is taken as the tree's last has no children in it, so those are left out that would be last or
        later even if nothing better came.
        """
        if self.next is None:
            return []
        waiting = nsmallest(self._num_nodes - len(self.tree) - 1, self._waiting)
        behind = [(-found[0], found[-1]) for found in waiting if found[2] < self._max_depth]
        return [(self.next.value, self.next.context), *behind]
