"""Merging a retrieved tree into a model drafter's tree, after RASD (arXiv 2503.03434).

RASD prunes the retrieval tree by the draft model's probability distribution and fuses both trees by longest prefix
matching. Here:

- *Pruning*: a retrieved continuation whose first token the model did not list among its candidates is dropped. The
  model sees the whole text, retrieval a few tokens of it; a place where they already differ is a different place.
  Where the model proposed nothing, nothing is pruned.
- *Fusing*: each retrieved path is followed in the model's tree as far as both agree; what is left of it hangs below
  that place. Both trees so share all common beginnings, and no node is verified twice.

A node that both said keeps the larger confidence. The target picks one child at most, so siblings whose confidences
add up to more than one are scaled to one. The best `num_nodes` by value stay. As the result consists of proposals,
nothing here can change what the target says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DraftNode
from workers.drafters.growth import Candidate, grow

__all__ = ["graft"]

Children = dict[int, int]
"""Index of a node by its token."""


def graft(
    model: Sequence[DraftNode], retrieved: Sequence[DraftNode], num_nodes: int, *, prune: bool = True
) -> tuple[DraftNode, ...]:
    """One tree of at most `num_nodes`, parents first; nodes that both said count as the model's."""
    nodes: list[DraftNode] = []
    children_of: dict[int, Children] = {}
    _unite(model, nodes, children_of, None)
    listed = frozenset(children_of.get(ROOT, {}))
    _unite(retrieved, nodes, children_of, listed if prune and listed else None)
    scale_of = {
        parent: max(1.0, sum(nodes[index].confidence for index in children.values()))
        for parent, children in children_of.items()
    }

    def expand(parent: int, depth: int) -> list[Candidate[int]]:
        found = children_of.get(parent, {})
        return [(token, nodes[index].confidence / scale_of[parent], index) for token, index in found.items()]

    grown = grow(ROOT, expand, num_nodes, max_depth=len(nodes))
    result: list[DraftNode] = []
    place: list[int] = []  # of each chosen node among `nodes`
    for token, parent, confidence in grown:
        index = children_of[ROOT if parent == ROOT else place[parent]][token]
        place.append(index)
        result.append(replace(nodes[index], parent=parent, confidence=confidence))
    return tuple(result)


def _unite(
    tree: Sequence[DraftNode], nodes: list[DraftNode], children_of: dict[int, Children], firsts: frozenset[int] | None
) -> None:
    """Adds a tree by path; with `firsts`, only what begins with one of them."""
    place: dict[int, int] = {ROOT: ROOT}
    for index, node in enumerate(tree):
        if node.parent >= index:
            raise InvalidArgument(f"node {index} of a tree comes before its parent {node.parent}; parents come first")
        parent = place.get(node.parent)
        if parent is None or (firsts is not None and parent == ROOT and node.token not in firsts):
            continue  # below something that was pruned, or pruned itself
        children = children_of.setdefault(parent, {})
        known = children.get(node.token)
        if known is None:
            known = children[node.token] = len(nodes)
            nodes.append(node)
        elif node.confidence > nodes[known].confidence:
            nodes[known] = replace(nodes[known], confidence=node.confidence)
        place[index] = known
