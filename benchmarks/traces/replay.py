"""One recorded request, decoded again: drafters say what they said, the target decides what it decided.

Everything in between is the service's own (`speculation/`): where nodes hang, what they are worth, what a verdict
teaches. Who drafts, what is checked and what it costs is up to whoever replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.traces.trace import Request, Trace
from contracts.types import DrafterId, Epoch, SequenceId, TenantId, Verdict
from contracts.verdict import walk
from speculation.drafting import Drafting
from speculation.roster import Roster
from speculation.tree_node import TreeNode

__all__ = ["TENANT", "Replay", "play_chain"]

TENANT = TenantId("trace")
_UNKNOWN = -1  # what the target would say off its path; nobody asks


class Replay:
    """See the module. `num_committed` counts the answer's tokens. `voice_of`: whose drafts a drafter has, if not its
    own: a drafter that changed."""

    def __init__(
        self,
        trace: Trace,
        request: Request,
        roster: Roster,
        name: str,
        *,
        voice_of: Mapping[DrafterId, DrafterId] | None = None,
    ) -> None:
        self.trace, self.request, self.voice_of = trace, request, voice_of or {}
        self.sequence = SequenceId(name)
        self.drafting: Drafting = roster.open(TENANT, request.prompt, temperature=request.temperature)
        self.num_committed = 0

    @property
    def num_left(self) -> int:
        return len(self.request.answer) - self.num_committed

    @property
    def context(self) -> int:
        """Keys of the next row."""
        return len(self.request.prompt) + self.num_committed

    def propose(self, drafters: Sequence[DrafterId], *, of: Request | None = None) -> None:
        """These drafters say what comes next; `of`: what they said of another request, which is worth nothing here."""
        for drafter in drafters:
            voice = self.voice_of.get(drafter, drafter)
            tree = self.trace.tree(of or self.request, 0 if of else self.num_committed, voice)
            self.drafting.take(drafter, tree)

    def nodes(self, max_depth: int = 64) -> list[TreeNode]:
        """What could be checked, by value."""
        tree = self.drafting.tree
        return [node for node in tree.by_value() if tree.depth(node.id) <= max_depth]

    def verify(self, ids: Sequence[int]) -> int:
        """A round checks these nodes of the tree; how many tokens it commits."""
        tree, answer = self.drafting.tree, self.request.answer
        frontier = tree.frontier_of(ids)
        tree.start(frontier)
        places = [self.num_committed, *(self.num_committed + tree.depth(node) for node in ids)]
        choices = [answer[place] if place < len(answer) else _UNKNOWN for place in places]
        accepted = walk(choices, [node.token for node in frontier.nodes], [node.parent for node in frontier.nodes])
        accepted = accepted[: self.num_left - 1]  # the last token is the target's own, for nothing after it is known
        tokens = answer[self.num_committed : self.num_committed + len(accepted) + 1]
        position = len(self.request.prompt) + self.num_committed
        self.drafting.settle(
            Verdict(
                sequence=self.sequence,
                epoch=Epoch(0),
                position=position,
                accepted=tuple(accepted),
                tokens=tokens,
            )
        )
        self.num_committed += len(tokens)
        return len(tokens)

    def follow(self, drafter: DrafterId, first: int = 0) -> None:
        """A drafter that did not draft reads along, and scores the committed tokens from the answer's `first` on."""
        voice = self.voice_of.get(drafter, drafter)
        for matched in self.trace.matches(self.request, voice)[first : self.num_committed]:
            self.drafting.scores.followed(drafter, float(matched))


def play_chain(matches: Sequence[bool], length: int) -> list[tuple[int, int]]:
    """Rounds of plain speculation with a chain of at most `length`: tokens committed before each, and in it.

    >>> play_chain([True, True, False, True], 8)
    [(0, 3), (3, 1)]
    """
    rounds: list[tuple[int, int]] = []
    at = 0
    while at < len(matches):
        run = 0
        while run < min(length, len(matches) - at - 1) and matches[at + run]:
            run += 1
        rounds.append((at, run + 1))
        at += run + 1
    return rounds
