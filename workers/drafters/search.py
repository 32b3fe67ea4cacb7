"""Growing a draft tree by a search that explores: Monte Carlo tree search with the PUCT score, made deterministic.

As ADED (arXiv 2407.12021) builds drafts: each simulation walks down from the root, at every node to the child a of

    Q(a) + exploration * P(a) * sqrt(N) / (1 + N(a))

where P is the token's probability by the table, N counts simulations through the node and N(a) those through the child,
and Q(a) is the mean of what these ended with. Here a simulation ends at the first child that is not in the tree yet: it
joins the tree, and the probability of its path is the simulation's value. So each simulation adds one node, and there
is no chance in it: equal scores go to the child listed first.

Why explore, when `growth.grow` takes the best nodes by value: that is best if the probabilities are right. Those of a
small table are not. The second term lowers a child each time it is visited, so alternatives near the root get nodes
before the tail of the best path does; with `exploration` 0 the walk follows what has paid so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from contracts.types import ROOT
from workers.drafters.growth import MIN_CONFIDENCE, Candidate, Grown

__all__ = ["search"]

Context = TypeVar("Context")


@dataclass(slots=True)
class _Node(Generic[Context]):
    """A token that may join the tree, or did: `place` is its index there. The root has a place below all."""

    token: int
    confidence: float
    context: Context
    depth: int
    place: int | None = None
    num_visits: int = 0
    sum_values: float = 0.0
    children: list[_Node[Context]] | None = None
    """None as long as nobody looked; those with nothing left to add below are taken out."""

    def score(self, exploration: float) -> float:
        mean = self.sum_values / self.num_visits if self.num_visits else 0.0
        return mean + exploration * self.confidence / (1 + self.num_visits)


def search(
    root: Context,
    expand: Callable[[Context, int], Iterable[Candidate[Context]]],
    num_nodes: int,
    *,
    max_depth: int,
    exploration: float,
) -> list[Grown]:
    """A tree of at most `num_nodes`, parents first; `expand` as for `growth.grow`."""
    tree: list[Grown] = []
    top = _Node(token=ROOT, confidence=1.0, context=root, depth=0, place=ROOT)
    while len(tree) < num_nodes:
        walk = [top]
        while (child := _best_child(walk[-1], expand, max_depth, exploration)) is not None:
            walk.append(child)
            if child.place is None:
                break
        if walk[-1] is top:
            break  # nothing left anywhere
        if walk[-1].place is not None:
            # A dead end: nothing can be added below it any more, so no later walk comes here.
            assert walk[-2].children is not None, "a walk goes through nodes whose children were looked at"
            walk[-2].children.remove(walk[-1])
            continue
        parent = walk[-2].place
        assert parent is not None, "a walk ends at the first node that is not in the tree"
        walk[-1].place = len(tree)
        tree.append(Grown(walk[-1].token, parent, walk[-1].confidence))
        value = math.prod(node.confidence for node in walk)
        for node in walk:
            node.num_visits += 1
            node.sum_values += value
    return tree


def _best_child(
    node: _Node[Context],
    expand: Callable[[Context, int], Iterable[Candidate[Context]]],
    max_depth: int,
    exploration: float,
) -> _Node[Context] | None:
    if node.children is None:
        found = expand(node.context, node.depth) if node.depth < max_depth else ()
        node.children = [
            _Node(token=token, confidence=min(confidence, 1.0), context=context, depth=node.depth + 1)
            for token, confidence, context in found
            if confidence >= MIN_CONFIDENCE
        ]
    weight = exploration * math.sqrt(max(node.num_visits, 1))
    return max(node.children, key=lambda child: child.score(weight), default=None)
