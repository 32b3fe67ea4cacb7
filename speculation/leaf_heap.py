"""The leaves of a full token tree by value, lowest first: who leaves when something better comes."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Mapping

from speculation.tree_node import TreeNode

__all__ = ["LeafHeap"]


class LeafHeap:
    """A lazy heap: what became untrue (node gone, changed its value) is skipped when it comes up. A node that grew
    children does not come up before they went, for a child's value is no higher and its id is.

    Of equals the youngest leaves, so that a full tree is not churned by proposals that are no better than its own.
    """

    def __init__(self, nodes: Iterable[TreeNode]) -> None:
        self._heap = [(node.value, -node.id, node) for node in nodes if not node.children]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, node: TreeNode) -> None:
        """To be called for every node that is new, changed its value, or lost its last child."""
        if not node.children:
            heapq.heappush(self._heap, (node.value, -node.id, node))

    def pop_lowest(self, alive: Mapping[int, TreeNode], kept: Container[int]) -> TreeNode:
        """The leaf of lowest value that is not to be kept."""
        while True:
            value, _, node = heapq.heappop(self._heap)
            if alive.get(node.id) is node and node.value == value and node.id not in kept:
                return node
