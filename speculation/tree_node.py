"""One node of a token tree, and what drafters said about it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from contracts.errors import InvalidArgument
from contracts.types import DrafterId

__all__ = ["Said", "TreeNode", "check_said", "share_out", "value_of_child", "walk_below"]


class Said(NamedTuple):
    """What one drafter said about one node: a calibrated confidence, and the raw score and depth that it came from.

    Score and depth come back with the verdict, so that calibration learns about the very place of the curve that it
    was asked for. Of two statements of one drafter about one node the larger (in tuple order) stays: taking a maximum
    does not depend on the order of arrival, nor on how often a message is delivered.
    """

    confidence: float
    score: float
    depth: int


@dataclass(slots=True, eq=False)
class TreeNode:
    """A proposed token below its parent. Changed by `TokenTree` alone; everyone else reads.

    `parent` is an id, not a reference: without reference circles a dropped subtree is freed at once, not when the
    collector comes around.
    """

    id: int
    token: int
    position: int
    """Index in the sequence; the depth below the root is this less the root's, and changes when the tree re-roots."""
    parent: int
    """Id of the parent; the root's own id for the root."""
    claimed: float
    """What its drafters claim together, by the tree's combining rule."""
    value: float
    """Product of the confidences on its path: the chance that the target's choices lead here."""
    said: dict[DrafterId, Said]
    children: dict[int, TreeNode] = field(default_factory=dict)  # by token
    scale: float = 1.0
    """Factor on the claims of its children, see `share_out`."""


def check_said(token: int, confidence: float, score: float) -> None:
    """Refuses what no honest drafter says, before it can spoil values (a NaN makes every comparison false)."""
    if token < 0:
        raise InvalidArgument(f"draft node token is {token}; a token id is 0 or more")
    if not 0.0 <= confidence <= 1.0:  # NaN fails this too
        raise InvalidArgument(f"draft node confidence is {confidence}; it lies between 0 and 1")
    if not math.isfinite(score):
        raise InvalidArgument(f"draft node score is {score}; it is a finite number")


def share_out(node: TreeNode) -> bool:
    """Sets the factor on the children's claims; says whether it changed.

    The target picks one child at most, so the chances of siblings cannot add up to more than one, though claims of
    drafters that disagree do. Then all are scaled by the same factor: their order and ratios stay. `fsum` is exact
    whatever the order of its terms, so the factor depends on the set of children alone.
    """
    children = node.children
    total = math.fsum([child.claimed for child in children.values()]) if len(children) > 1 else 0.0
    scale = 1.0 / total if total > 1.0 else 1.0
    changed = scale != node.scale
    node.scale = scale
    return changed


def value_of_child(parent: TreeNode, claimed: float) -> float:
    """The value of a child with this claim: never above the parent's, as both factors are at most one."""
    return parent.value * (claimed * parent.scale)


def walk_below(node: TreeNode) -> Iterator[TreeNode]:
    """All nodes below one, every parent before its children."""
    stack = list(node.children.values())
    while stack:
        found = stack.pop()
        stack.extend(found.children.values())
        yield found
