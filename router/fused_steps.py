"""Every-step fusion of one sequence's drafters, after CoSine (arXiv 2503.10325).

All step together: each is asked for its candidates at one place, below a path that is the same for all. When the last
of them has answered, the best candidate by the tree's own value is the fused token, and the next place is below it;
those that lost are in the tree as siblings. A verdict that goes along the path leaves what is behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from contracts.types import DrafterId
from speculation.tree import TokenTree

__all__ = ["NUM_CANDIDATES", "FusedSteps"]

NUM_CANDIDATES = 4  # of one drafter at one place
_HOPELESS = 0.02  # a path worth less is not drafted on


@dataclass(slots=True)
class FusedSteps:
    """See the module. `path` is the place that drafters are asked about, as tokens below the last committed one."""

    path: tuple[int, ...] = ()
    awaited: set[DrafterId] = field(default_factory=set)

    def begin(self, drafters: Collection[DrafterId]) -> None:
        """These step together from here on."""
        self.awaited = set(drafters)

    def decided(self, tokens: Sequence[int], drafters: Collection[DrafterId]) -> None:
        """The target went so far; the next question is asked anew, for drafters have dropped the last."""
        count = len(tokens)
        self.path = self.path[count:] if self.path[:count] == tuple(tokens) else ()
        self.begin(drafters)

    def answered(self, drafter: DrafterId, below: Sequence[int]) -> bool:
        """A drafter has said all about a place; whether it is this one, and nobody else is awaited."""
        if drafter not in self.awaited or tuple(below[: len(self.path)]) != self.path:
            return False
        self.awaited.discard(drafter)
        return not self.awaited

    def advance(self, tree: TokenTree, *, max_depth: int) -> bool:
        """Goes below the best candidate of this place; False where there is none worth it, or it is deep enough."""
        at = tree[tree.root]
        for token in self.path:
            child = at.children.get(token)
            if child is None:
                return False  # a full tree has let it go
            at = child
        best = max(at.children.values(), key=lambda node: (node.value, -node.id), default=None)
        if best is None or best.value < _HOPELESS or len(self.path) + 1 >= max_depth:
            return False
        self.path = (*self.path, best.token)
        return True
