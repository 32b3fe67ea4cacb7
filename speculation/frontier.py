"""What goes from a token tree to a round, and what comes back: frontier, and what its verdict did to the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, DraftNode, Verdict
from speculation.tree_node import TreeNode

__all__ = ["Evidence", "Frontier", "Settled", "check_verdict", "frontier_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The part of a tree that one round checks. `ids[i]` is the tree's id of `nodes[i]`; parents come first.

    `position` is the index in the sequence of the tokens directly below the root; with it a verdict is matched.
    """

    position: int
    ids: tuple[int, ...] = ()
    nodes: tuple[DraftNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One statement of one drafter that a verdict proved right or wrong: food for calibration and expertise."""

    node: int
    position: int
    """Index in the sequence of the node's token."""
    drafter: DrafterId
    depth: int
    """Depth at which the drafter said it, which is where its calibration was asked."""
    score: float
    confidence: float
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a verdict did to a tree. A stale verdict did nothing, and all the rest is zero then.

    `missed`: the frontier offered something where the accepted path ended, and the target chose another token.
    `ready`: the tree held the target's own next token, so that the node became the root with what was below it.
    Dropped nodes are those that neither survived below the new root nor became committed tokens.
    """

    stale: bool = False
    num_accepted: int = 0
    num_survived: int = 0
    num_dropped: int = 0
    missed: bool = False
    ready: bool = False
    tested: tuple[Evidence, ...] = ()

    @property
    def miss_was_ready(self) -> bool:
        """Whether a rejection found a subtree to go on with (speculative speculation's cache hit)."""
        return self.missed and self.ready


def frontier_of(nodes: Sequence[TreeNode], root: TreeNode) -> Frontier:
    """Nodes of a tree as a frontier; each one's parent is the root or comes before it."""
    index_of = {root.id: ROOT}
    drafts: list[DraftNode] = []
    for index, node in enumerate(nodes):
        if node.parent not in index_of or node.id in index_of:
            raise InvalidArgument(
                f"frontier node {node.id} comes twice or without its parent {node.parent}; "
                "a frontier is a connected upper part of the tree, every parent before its children"
            )
        index_of[node.id] = index
        parent = nodes[index_of[node.parent]] if node.parent != root.id else root
        drafts.append(
            DraftNode(
                token=node.token,
                parent=index_of[node.parent],
                confidence=node.claimed * parent.scale,
                drafter=_loudest(node),
            )
        )
    return Frontier(position=root.position + 1, ids=tuple(node.id for node in nodes), nodes=tuple(drafts))


def _loudest(node: TreeNode) -> DrafterId:
    """The drafter to name where only one can be: the most confident, and of equals the first by name."""
    said = node.said
    return next(iter(said)) if len(said) == 1 else min(said, key=lambda drafter: (-said[drafter].confidence, drafter))


def check_verdict(verdict: Verdict, frontier: Frontier) -> None:
    """Refuses a verdict that cannot be about this frontier: it would teach calibration about the wrong nodes."""
    parent = ROOT
    for index, token in zip(verdict.accepted, verdict.tokens, strict=False):
        if not 0 <= index < len(frontier.nodes):
            raise InvalidArgument(
                f"verdict for {verdict.sequence} accepts node {index} of a frontier of {len(frontier.nodes)}"
            )
        node = frontier.nodes[index]
        if (node.token, node.parent) != (token, parent):
            raise InvalidArgument(
                f"verdict for {verdict.sequence} accepts node {index} as token {token} below {parent}; "
                f"in the frontier in flight it is token {node.token} below {node.parent}"
            )
        parent = index
    if len(verdict.feedback) not in (0, len(frontier.nodes)):
        raise InvalidArgument(
            f"verdict for {verdict.sequence} has {len(verdict.feedback)} feedback entries for a frontier of "
            f"{len(frontier.nodes)}; there are none, or one for each node"
        )
