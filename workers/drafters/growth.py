"""Growing a draft tree best first, and one distribution from contexts of several lengths.

Best first: the next node is always the one of highest value, the product of the confidences on its path. Children are
never worth more than their parent, so the n best nodes of the whole (endless) tree are found by looking below n nodes
only, parents come before children, and of all trees of n nodes this one expects the most accepted tokens, as far as the
confidences are right.

Contexts of several lengths are joined as PPM compression does (Cleary and Witten, 1984): a context that was followed n
times gives each continuation its count out of n + escape, and what is left, escape out of n + escape, goes to the next
shorter context. The result never adds up to more than one. The escape is one over the length that matched: what
followed a long match is trusted after having been seen once, what followed a single token is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush, nsmallest
from typing import Generic, NamedTuple, TypeVar

from contracts.types import ROOT

__all__ = ["Candidate", "Grown", "Growth", "Place", "blend", "grow", "within_limits"]

Context = TypeVar("Context")

MIN_CONFIDENCE = 1e-6
"""Below it a token is not worth the bytes that carry it."""


class Grown(NamedTuple):
    """A node of a tree that grows: the parent is an index in the same list, or ROOT."""

    token: int
    parent: int
    confidence: float


Candidate = tuple[int, float, Context]
"""A token that may come next, its confidence, and the context after it."""


class Place(NamedTuple, Generic[Context]):
    """Where growth looks for children: a node of the tree, or ROOT."""

    node: int
    depth: int
    value: float
    context: Context


class Growth(Generic[Context]):
    """Growth in pieces: it stops where it has to know what follows, and goes on when it is told.

    `next` is the place whose children decide how it goes on; None when the tree is done. What is in the tree already is
    final: whatever is found below a later place is worth no more than that place, and everything worth more is in.
    Below nodes of less than `least_value` it does not look; they themselves were found on the way.
    """

    def __init__(self, root: Context, num_nodes: int, *, max_depth: int, least_value: float = 0.0) -> None:
        self.tree: list[Grown] = []
        self.next = Place(ROOT, 0, 1.0, root) if num_nodes > 0 and max_depth > 0 else None
        self._num_nodes, self._max_depth, self._least_value = num_nodes, max_depth, least_value
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
            may_go_on = depth < self._max_depth and -negative_value >= self._least_value
            if may_go_on and len(self.tree) < self._num_nodes:
                return Place(len(self.tree) - 1, depth, -negative_value, context)
        return None

    @property
    def num_behind(self) -> int:
        """Most places on one path that it may look at below `next`."""
        if self.next is None:
            return 0
        return max(min(self._num_nodes - len(self.tree), self._max_depth - self.next.depth) - 1, 0)

    def soon(self) -> list[tuple[float, Context]]:
        """Places that it will look at, `next` first, unless something better is found: their values and contexts.

        A node that is taken as the tree's last has no children in it, so those are left out that would be last or
        later even if nothing better came.
        """
        if self.next is None:
            return []
        waiting = nsmallest(self._num_nodes - len(self.tree) - 1, self._waiting)
        behind = [
            (-found[0], found[-1]) for found in waiting if found[2] < self._max_depth and -found[0] >= self._least_value
        ]
        return [(self.next.value, self.next.context), *behind]


def grow(
    root: Context,
    expand: Callable[[Context, int], Iterable[Candidate[Context]]],
    num_nodes: int,
    *,
    max_depth: int,
) -> list[Grown]:
    """The best nodes by value; `expand(context, depth)` gives the candidates at that depth, 0 below the root.

    Of nodes of equal value the one that was found first comes first: the result is a function of the arguments.
    """
    growth = Growth(root, num_nodes, max_depth=max_depth)
    while (place := growth.next) is not None:
        growth.give(expand(place.context, place.depth))
    return growth.tree


def within_limits(
    tree: Sequence[Grown], num_nodes: int, max_depth: int | None, max_children: int | None
) -> list[Grown]:
    """The part of a tree that keeps limits: of too many children the surest, and nothing below what is left out."""
    children: dict[int, list[int]] = {}
    for index, node in enumerate(tree):
        children.setdefault(node.parent, []).append(index)
    allowed = {
        child
        for siblings in children.values()
        for child in sorted(siblings, key=lambda child: (-tree[child].confidence, child))[:max_children]
    }
    place_and_depth = {ROOT: (ROOT, 0)}
    found: list[Grown] = []
    for index, node in enumerate(tree):
        if index not in allowed or node.parent not in place_and_depth or len(found) == num_nodes:
            continue
        parent, depth = place_and_depth[node.parent]
        if max_depth is None or depth < max_depth:
            place_and_depth[index] = len(found), depth + 1
            found.append(Grown(node.token, parent, node.confidence))
    return found


def blend(
    levels: Iterable[tuple[Sequence[tuple[int, float]], float, float]], max_candidates: int
) -> list[tuple[int, float]]:
    """One distribution from contexts, longest first: each as (counts by token, their total, escape). Best first.

    A level's total may be larger than the sum of the counts that it lists; the rest is lost, not given away.
    """
    left = 1.0
    confidence_of: dict[int, float] = {}
    for counts, total, escape in levels:
        share = left / (total + escape)
        for token, count in counts:
            confidence_of[token] = confidence_of.get(token, 0.0) + count * share
        left *= escape / (total + escape)
    return nsmallest(max_candidates, confidence_of.items(), key=lambda item: (-item[1], item[0]))
