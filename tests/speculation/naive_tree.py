"""A token tree as plainly as it can be said: a set of paths, everything computed from scratch. For comparison only."""

from __future__ import annotations

import math
from collections.abc import Collection

from contracts.types import DrafterId
from speculation.fusion import Agreement
from speculation.tree_node import Said

Path = tuple[int, ...]


class NaiveTree:
    """Statements by path; `ids` are those that the real tree gave."""

    def __init__(self, max_nodes: int) -> None:
        self.max_nodes = max_nodes
        self.said: dict[Path, dict[DrafterId, Said]] = {}
        self.ids: dict[Path, int] = {}

    def children(self, path: Path) -> list[Path]:
        return [other for other in self.said if other[:-1] == path]

    def claimed(self, path: Path) -> float:
        return Agreement()({drafter: said.confidence for drafter, said in self.said[path].items()})

    def confidence(self, path: Path) -> float:
        siblings = self.children(path[:-1])
        total = math.fsum(self.claimed(sibling) for sibling in siblings) if len(siblings) > 1 else 0.0
        return self.claimed(path) * (1.0 / total if total > 1.0 else 1.0)

    def value(self, path: Path) -> float:
        value = 1.0
        for depth in range(1, len(path) + 1):
            value *= self.confidence(path[:depth])
        return value

    def say(self, path: Path, drafter: DrafterId, said: Said) -> None:
        assert not path[:-1] or path[:-1] in self.said
        known = self.said.setdefault(path, {})
        known[drafter] = max(said, known.get(drafter, said))

    def evict(self, in_flight: Collection[Path]) -> list[Path]:
        """Drops the lowest leaves, the youngest of equals first, until the bound holds."""
        gone = []
        while len(self.said) > self.max_nodes:
            leaves = [path for path in self.said if not self.children(path) and path not in in_flight]
            lowest = min(leaves, key=lambda path: (self.value(path), -self.ids[path]))
            del self.said[lowest], self.ids[lowest]
            gone.append(lowest)
        return gone

    def withdraw(self, drafter: DrafterId, in_flight: Collection[Path]) -> None:
        for path in sorted(self.said, key=len, reverse=True):
            if drafter not in self.said[path]:
                continue
            if len(self.said[path]) > 1:
                del self.said[path][drafter]
            elif not self.children(path) and path not in in_flight:
                del self.said[path], self.ids[path]

    def commit(self, tokens: Path) -> None:
        """Paths that begin with the committed tokens go on without them; nothing else does."""
        n = len(tokens)
        self.said = {path[n:]: said for path, said in self.said.items() if path[:n] == tokens and len(path) > n}
        self.ids = {path[n:]: node for path, node in self.ids.items() if path[:n] == tokens and len(path) > n}
