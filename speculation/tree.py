"""The living token tree of one sequence: everything drafters proposed below its last committed token.

The idea joins several papers: a tree checked in one pass (SpecInfer, arXiv 2305.09781), drafting on below what is being
checked (PEARL, 2408.11850; FASER's frontiers, 2604.20503), keeping what survives by moving the root (SwiftSpec,
2506.11309), and subtrees ready for a miss (speculative speculation, 2603.03251). Growing, merging, checking and
re-rooting are operations on one structure here, so that all those ways of working are the same code.

What holds at any time, and why it is enough:

- *Nothing here can change the output.* The tree only says what is worth checking. A verdict's tokens are the target's
  own, and they alone decide where the root goes.
- *The best nodes by value are connected* (`valued_tree`): any prefix of `by_value` is a frontier.
- *Merging is order-free.* Per node and drafter a maximum is kept, and the combining rule sees all drafters at once: the
  tree depends on the set of statements, not on their order, as long as nothing had to be evicted.
- *Ids are never reused*, so a message in flight names what it meant or nothing; the root's id names the root.
- *One frontier at a time.* Two frontiers of one tree would begin at the same root and decide the same position, and by
  promise 1 equally; so while one is in flight there is nothing to gain from another, and a verdict needs no name for
  the round that it answers. Below and beside the nodes in flight the tree grows on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, Verdict
from speculation.frontier import Evidence, Frontier, Settled, check_verdict, frontier_of
from speculation.fusion import Agreement, Combine
from speculation.tree_node import Said, TreeNode, check_said, walk_below
from speculation.valued_tree import ValuedTree

__all__ = ["TokenTree"]


class TokenTree(ValuedTree):
    """See the module. `next_position` is the index that the sequence's next token will have."""

    def __init__(self, *, next_position: int, max_nodes: int = 256, combine: Combine | None = None) -> None:
        super().__init__(next_position=next_position, max_nodes=max_nodes, combine=combine or Agreement())
        self.num_stale = 0
        """Verdicts that came after a newer one."""
        self.num_orphans = 0
        """Proposals below a node that was gone when they came."""
        self._in_flight: Frontier | None = None

    # Growing

    def add(
        self, parent: int, token: int, confidence: float, drafter: DrafterId, *, score: float | None = None
    ) -> int | None:
        """Puts a node below a parent, or unites it with the one that is there; its id.

        `confidence` is calibrated; `score` is the raw score that it came from. None when there is no place for it:
        the parent is gone (counted as an orphan), or the tree is full of better ones.
        """
        at = self._place(parent)
        return None if at is None else self._grow(at, token, confidence, drafter, score)

    def add_path(
        self,
        parent: int,
        tokens: Sequence[int],
        confidences: Sequence[float],
        drafter: DrafterId,
        *,
        scores: Sequence[float] | None = None,
    ) -> list[int]:
        """Puts one token below another; ids of those that found a place, from the top down."""
        ids: list[int] = []
        at = self._place(parent)
        for token, confidence, score in zip(tokens, confidences, scores or confidences, strict=True):
            grown = None if at is None else self._grow(at, token, confidence, drafter, score)
            if grown is None:
                break
            ids.append(grown)
            at = self._nodes[grown]
        return ids

    def add_comb(
        self,
        parent: int,
        candidates: Sequence[tuple[int, float]],
        drafter: DrafterId,
        *,
        scores: Sequence[float] | None = None,
    ) -> list[int | None]:
        """Puts the outcome of one draft step, as (token, confidence), below one parent: choice and runners-up.

        Their ids in that order, None for one that found no place.
        """
        of_candidate = scores or [confidence for _, confidence in candidates]
        ids: list[int | None] = []
        at = self._place(parent)
        for (token, confidence), score in zip(candidates, of_candidate, strict=True):
            ids.append(None if at is None else self._grow(at, token, confidence, drafter, score))
        # A later candidate may have pushed out an earlier one.
        return [node if node is not None and node in self._nodes else None for node in ids]

    def merge(self, other: TokenTree) -> None:
        """Unites another tree of the same root with this one, by path."""
        if other.next_position != self.next_position:
            raise InvalidArgument(
                f"a tree at position {other.next_position} cannot merge into one at {self.next_position}; "
                "re-root the older one first"
            )
        pairs = [(self._root, other._root)]
        while pairs:
            mine, theirs = pairs.pop()
            if mine.id not in self._nodes:
                continue  # pushed out meanwhile, and with it whatever would hang below
            for child in theirs.children.values():
                same = [self._say(mine, child.token, drafter, said) for drafter, said in child.said.items()]
                pairs.append((same[-1], child))
            self._evict()

    def withdraw(self, drafter: DrafterId) -> int:
        """Takes back all that a drafter said, leaves first; number of nodes that went.

        A node stays when another drafter said it too, and also, as it was, when a round is checking it or when it
        leads to nodes that stay: those are as good as they were.
        """
        num_before = len(self._nodes)
        for node in sorted(walk_below(self._root), key=lambda node: -node.position):
            if drafter not in node.said:
                continue
            if len(node.said) > 1:
                del node.said[drafter]
                self._claim(self._nodes[node.parent], node)
            elif not node.children and node.id not in self._checked:
                self._remove(node)
        return num_before - len(self._nodes)

    # Checking

    @property
    def in_flight(self) -> Frontier | None:
        """What a round is checking now."""
        return self._in_flight

    def frontier(self, num_nodes: int, *, min_value: float = 0.0) -> Frontier:
        """The best nodes by value: a connected upper part of the tree, empty where nothing is worth it."""
        best: list[TreeNode] = []
        for node in self.by_value():
            if len(best) >= num_nodes or node.value < min_value:
                break
            best.append(node)
        return frontier_of(best, self._root)

    def frontier_of(self, ids: Iterable[int]) -> Frontier:
        """Chosen nodes as a frontier, in this order: a connected upper part, parents first."""
        try:
            return frontier_of([self._nodes[node] for node in ids], self._root)
        except KeyError as gone:
            raise InvalidArgument(f"frontier node {gone} is not in the tree") from None

    def start(self, frontier: Frontier) -> None:
        """A round checks this frontier (an empty one too: a plain step). Its nodes stay until the verdict."""
        if self._in_flight is not None:
            raise InvalidArgument(
                f"a frontier of {len(self._in_flight.ids)} nodes is in flight; another may go after its verdict"
            )
        if frontier.position != self.next_position or not all(node in self for node in frontier.ids):
            raise InvalidArgument(
                f"the frontier is of an older tree (its position is {frontier.position}, now {self.next_position}, "
                "or nodes of it are gone); take a new one"
            )
        self._in_flight, self._checked = frontier, frozenset(frontier.ids)

    def keep(self, frontier: Frontier) -> None:
        """These nodes too stay until the verdict: a round that follows on its heels may begin with some of them."""
        self._checked |= frozenset(frontier.ids)

    def abandon(self) -> None:
        """The round was lost and will bring no verdict. Nodes stay."""
        self._in_flight, self._checked, self._leaves = None, frozenset(), None

    def settle(self, verdict: Verdict) -> Settled:
        """Re-roots on a verdict, and says what was learned. Verdicts of older epochs are the caller's to drop.

        Learned from are all children of the nodes where the target chose, in the frontier or not: the target's choice
        there is known, and it was this token or another. To learn from frontier nodes alone would never correct a
        drafter whose confidences are too low, for its nodes never get into a frontier. Only nodes that left the pass
        early are not learned from: contracts call them untested.
        """
        if verdict.position != self.next_position:
            return self._misplaced(verdict.position)
        pruned: frozenset[int] = frozenset()
        missed = False
        if (frontier := self._in_flight) is not None:
            check_verdict(verdict, frontier)
            pruned = frozenset(
                node for node, feedback in zip(frontier.ids, verdict.feedback, strict=False) if feedback.pruned
            )
            last = verdict.accepted[-1] if verdict.accepted else ROOT
            missed = any(node.parent == last for node in frontier.nodes)
        tested = self._tested(verdict.tokens, pruned)
        return self._reroot(verdict.tokens, num_accepted=len(verdict.accepted), missed=missed, tested=tested)

    def commit(self, position: int, tokens: Sequence[int]) -> Settled:
        """Re-roots on tokens known by other means than a verdict, the first of them at `position`."""
        if position != self.next_position:
            return self._misplaced(position)
        return self._reroot(tokens) if tokens else Settled()

    # Inside

    def _place(self, parent: int) -> TreeNode | None:
        if parent == ROOT:
            return self._root
        at = self._nodes.get(parent)
        if at is None:
            if not 0 <= parent < self._next_id:
                raise InvalidArgument(f"parent is {parent}; no node of this tree ever had that id")
            self.num_orphans += 1
        return at

    def _grow(
        self, parent: TreeNode, token: int, confidence: float, drafter: DrafterId, score: float | None
    ) -> int | None:
        score = confidence if score is None else score
        check_said(token, confidence, score)
        depth = parent.position + 1 - self._root.position
        node = self._say(parent, token, drafter, Said(confidence, score, depth))
        if len(self._nodes) - 1 > self.max_nodes:
            self._evict()
            return node.id if node.id in self._nodes else None
        return node.id

    def _misplaced(self, position: int) -> Settled:
        if position > self.next_position:
            raise InvalidArgument(
                f"a verdict is for position {position}; the sequence's next is {self.next_position}, "
                "and verdicts leave no gap"
            )
        self.num_stale += 1
        return Settled(stale=True)

    def _tested(self, tokens: Sequence[int], pruned: frozenset[int]) -> tuple[Evidence, ...]:
        tested: list[Evidence] = []
        at: TreeNode | None = self._root
        for token in tokens:
            if at is None:
                break
            for child in at.children.values():
                if child.id in pruned:
                    continue
                for drafter, (confidence, score, depth) in child.said.items():
                    tested.append(
                        Evidence(
                            node=child.id,
                            position=child.position,
                            drafter=drafter,
                            depth=depth,
                            score=score,
                            confidence=confidence,
                            chosen=child.token == token,
                        )
                    )
            at = at.children.get(token)
        return tuple(tested)

    def _reroot(
        self, tokens: Sequence[int], *, num_accepted: int = 0, missed: bool = False, tested: tuple[Evidence, ...] = ()
    ) -> Settled:
        num_before = len(self)
        position = self._root.position + len(tokens)
        at: TreeNode | None = self._root
        num_followed = 0
        for token in tokens:
            at = at.children.get(token) if at is not None else None
            num_followed += at is not None
        self.abandon()
        self._move_root(at or self._new_root(tokens[-1], position))
        return Settled(
            num_accepted=num_accepted,
            num_survived=len(self),
            num_dropped=num_before - num_followed - len(self),
            missed=missed,
            ready=at is not None,
            tested=tested,
        )
