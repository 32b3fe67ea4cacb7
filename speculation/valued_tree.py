"""Draft nodes with their values below one root, at most so many of them: what `TokenTree` is made of.

A node's value is the product of the confidences on its path, the chance that the target's choices lead to it. What
follows from that:

- *It falls along every path*, as each confidence is at most one. So the best n nodes are a connected upper part, and
  any prefix of `by_value` has every parent before its children.
- *The values of siblings, and of a whole depth, add up to at most one* (`tree_node.share_out`), as chances of events
  that exclude each other must. So the sum over a frontier is the number of tokens it can be expected to have accepted,
  where confidences are calibrated.
- *The bound costs nothing until it is reached*; then the leaf of lowest value goes, which never breaks a path.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.fusion import Combine
from speculation.leaf_heap import LeafHeap
from speculation.tree_node import Said, TreeNode, share_out, value_of_child, walk_below

__all__ = ["ValuedTree"]

_NOBODY = -1  # the token of the first root, which stands for the prompt


class ValuedTree:
    """See the module. Reading is for everyone; changing is `TokenTree`'s."""

    def __init__(self, *, next_position: int, max_nodes: int, combine: Combine) -> None:
        if next_position < 0 or max_nodes < 1:
            raise InvalidArgument(
                f"a token tree has next_position {next_position} and max_nodes {max_nodes}; "
                "the first is 0 or more, the second 1 or more"
            )
        self.max_nodes = max_nodes
        self.num_evicted = 0
        self._combine = combine
        self._next_id = 0
        self._root = self._new_root(_NOBODY, next_position - 1)
        self._nodes = {self._root.id: self._root}
        self._checked: frozenset[int] = frozenset()  # ids that a round is checking, which are not evicted
        self._leaves: LeafHeap | None = None  # made when the tree is full for the first time since its root moved

    def __len__(self) -> int:
        """Number of draft nodes; the root is none."""
        return len(self._nodes) - 1

    def __contains__(self, node: int) -> bool:
        return node in self._nodes and node != self._root.id

    def __getitem__(self, node: int) -> TreeNode:
        return self._nodes[node]

    @property
    def root(self) -> int:
        """Id of the last committed token's node. `ROOT` names the same, whichever it is at the time."""
        return self._root.id

    @property
    def next_position(self) -> int:
        return self._root.position + 1

    def depth(self, node: int) -> int:
        """1 for a child of the root."""
        return self._nodes[node].position - self._root.position

    def path(self, node: int) -> tuple[int, ...]:
        """Tokens from below the root down to this node."""
        tokens: list[int] = []
        at = self._nodes[node]
        while at is not self._root:
            tokens.append(at.token)
            at = self._nodes[at.parent]
        return tuple(reversed(tokens))

    def paths(self) -> dict[tuple[int, ...], dict[DrafterId, Said]]:
        """The whole tree as a value: what was said, by path. Trees are equal when these are."""
        path_of: dict[int, tuple[int, ...]] = {self._root.id: ()}
        found: dict[tuple[int, ...], dict[DrafterId, Said]] = {}
        for node in walk_below(self._root):
            path = path_of[node.id] = (*path_of[node.parent], node.token)
            found[path] = dict(node.said)
        return found

    def paths_of(self, drafter: DrafterId) -> list[tuple[int, ...]]:
        """Its part of the tree: the paths to its deepest nodes, sorted; what it has to keep when it rolls back.

        Other drafters' nodes may lie on the way, for with every-step fusion it drafts below tokens it did not say.
        """
        covered: set[int] = set()
        paths: list[tuple[int, ...]] = []
        for node in sorted(walk_below(self._root), key=lambda node: -node.position):
            if drafter in node.said and node.id not in covered:
                paths.append(self.path(node.id))
            if drafter in node.said or node.id in covered:
                covered.add(node.parent)
        return sorted(paths)

    def by_value(self) -> Iterator[TreeNode]:
        """All draft nodes, the most valuable first, parents before children; of equals the older first.

        Lazy: asking for the best n of a tree costs n steps, not its size. Not to be continued after a change.
        """
        heap = [(-child.value, child.id, child) for child in self._root.children.values()]
        heapq.heapify(heap)
        while heap:
            _, _, node = heapq.heappop(heap)
            yield node
            for child in node.children.values():
                heapq.heappush(heap, (-child.value, child.id, child))

    # Changing

    def _new_root(self, token: int, position: int) -> TreeNode:
        number = self._next_id
        self._next_id = number + 1
        return TreeNode(number, token, position, number, 1.0, 1.0, {})

    def _say(self, parent: TreeNode, token: int, drafter: DrafterId, said: Said) -> TreeNode:
        node = parent.children.get(token)
        if node is None:
            number = self._next_id
            self._next_id = number + 1
            claimed = self._combine({drafter: said.confidence})
            node = TreeNode(number, token, parent.position + 1, parent.id, claimed, 0.0, {drafter: said})
            self._nodes[number] = parent.children[token] = node
            self._changed(parent, node)
        elif drafter not in node.said or said > node.said[drafter]:
            node.said[drafter] = said
            self._claim(parent, node)
        return node

    def _claim(self, parent: TreeNode, node: TreeNode) -> None:
        """Combines anew what drafters said about a node."""
        node.claimed = self._combine({drafter: said.confidence for drafter, said in node.said.items()})
        self._changed(parent, node)

    def _changed(self, parent: TreeNode, node: TreeNode) -> None:
        """A claim below the parent is new: corrects values, of all siblings where they have to share."""
        self._revalue(parent, parent.children.values() if share_out(parent) else (node,))

    def _revalue(self, parent: TreeNode, children: Iterable[TreeNode]) -> None:
        todo = [(parent, child) for child in children]
        while todo:
            above, node = todo.pop()
            value = value_of_child(above, node.claimed)
            if value == node.value and node.children:
                continue  # nothing below changes either
            node.value = value
            if self._leaves is not None:
                self._leaves.offer(node)
            todo += [(node, child) for child in node.children.values()]

    def _evict(self) -> None:
        """Drops leaves of the lowest value until the bound holds. There is always one to drop: what is in flight is
        closed upwards, so below or beside it there is a leaf that is not."""
        while len(self._nodes) - 1 > self.max_nodes:
            # Entries that became untrue pile up in a tree that is full and changes: start afresh now and then.
            if self._leaves is None or len(self._leaves) > 4 * self.max_nodes + 64:
                self._leaves = LeafHeap(walk_below(self._root))
            self._remove(self._leaves.pop_lowest(self._nodes, self._checked))
            self.num_evicted += 1

    def _remove(self, leaf: TreeNode) -> None:
        del self._nodes[leaf.id]
        parent = self._nodes[leaf.parent]
        del parent.children[leaf.token]
        if parent.children:
            if share_out(parent):
                self._revalue(parent, parent.children.values())
        elif self._leaves is not None and parent is not self._root:
            self._leaves.offer(parent)

    def _move_root(self, root: TreeNode) -> None:
        """Keeps what is below this node, which may be a new one, and forgets the rest."""
        root.parent, root.claimed, root.value, root.said = root.id, 1.0, 1.0, {}
        self._root = root
        self._nodes = {root.id: root}
        self._leaves = None
        for node in walk_below(root):
            self._nodes[node.id] = node
            node.value = value_of_child(self._nodes[node.parent], node.claimed)
