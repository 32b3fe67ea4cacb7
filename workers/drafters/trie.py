"""Continuations as a tree with counts, and drafting from several of its places at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from workers.drafters.growth import Candidate, blend

__all__ = ["Match", "TrieNode", "add_path", "expand", "find"]

MAX_LISTED = 64  # children of one node that are looked at: the newest; a token may be followed by thousands


@dataclass(slots=True, eq=False)
class TrieNode:
    """How often the path to it occurred, in whatever unit its trie counts, and what followed."""

    count: float = 0.0
    children: dict[int, TrieNode] | None = None


Match = tuple[TrieNode, float]
"""A place in a trie, and the length of the context that it stands for."""


def add_path(root: TrieNode, path: Iterable[int], amount: float = 1.0) -> int:
    """Counts a path and all its beginnings; number of nodes that are new."""
    num_new = 0
    node = root
    for token in path:
        if node.children is None:
            node.children = {}
        child = node.children.get(token)
        if child is None:
            child = node.children[token] = TrieNode()
            num_new += 1
        child.count += amount
        node = child
    return num_new


def find(root: TrieNode, path: Sequence[int]) -> TrieNode | None:
    """The node of a path."""
    node = root
    for token in path:
        child = None if node.children is None else node.children.get(token)
        if child is None:
            return None
        node = child
    return node


def expand(matches: tuple[Match, ...], max_children: int, unit: float = 1.0) -> list[Candidate[tuple[Match, ...]]]:
    """What follows the matches, longest context first, joined by `growth.blend`; each with the matches after it.

    `unit` is what counts once in this trie: the escape is measured by it.
    """
    levels = []
    for node, length in matches:
        if node.children is not None:
            listed = islice(reversed(node.children.items()), MAX_LISTED)
            counts = [(token, child.count) for token, child in listed]
            levels.append((counts, sum(count for _, count in counts), unit / length))
    return [(token, confidence, _after(matches, token)) for token, confidence in blend(levels, max_children)]


def _after(matches: tuple[Match, ...], token: int) -> tuple[Match, ...]:
    return tuple(
        (node.children[token], length + 1.0)
        for node, length in matches
        if node.children is not None and token in node.children
    )
