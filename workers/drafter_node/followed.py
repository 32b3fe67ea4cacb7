"""One sequence as a drafter node follows it: what the router wants of it, and what it was told already.

Paths are tokens from the last committed one down. What was told stays told when tokens are committed along it, for the
router keeps it too; so after a commit only what is new crosses the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from contracts.types import ROOT, DraftNode
from specfleet.v1 import fleet_pb2
from workers.drafters.drafter import Ask
from workers.wire import sequence_id

__all__ = ["Followed", "draft_to_wire"]

_Path = tuple[int, ...]

_MAX_TOLD = 4096
"""Paths that are remembered. With more it begins anew: telling a node twice does no harm."""


@dataclass(slots=True, kw_only=True)
class Followed:
    """See the module. `position` is the index of the sequence's next token."""

    sequence: int
    epoch: int
    position: int
    trace: str = ""
    """The place of its span, if it is traced."""
    want: Ask | None = None
    runs_ahead: bool = False
    num_eager: int = 0
    only_follows: bool = False
    unread: _Path = ()
    """Of a sequence that is only followed: tokens that the drafter was not told yet, so that it can be asked first
    what it would have said."""
    num_scoring: int = 0
    """So many of them it is being asked about."""
    was_scored: bool = False
    """Whether it was asked about some of this sequence before."""
    answer: int | None = None
    """The number of the answer that is under way; None where nobody waits for one."""
    _told: set[_Path] = field(default_factory=set)
    _paths: list[_Path] = field(default_factory=list)
    """Of the nodes of the answer, by their index in it."""

    def wish(self, want: Ask, *, runs_ahead: bool, num_eager: int) -> None:
        """Replaces what was wanted before."""
        self.want, self.runs_ahead = want if want.num_nodes > 0 else None, runs_ahead
        # In turn the target waits for all of it, and every message takes time from all who read and write it.
        self.num_eager = (num_eager or want.num_nodes) if runs_ahead else 0
        self.only_follows, self.num_scoring = want.num_nodes == 0, 0

    def begin(self, answer: int) -> None:
        """The answer to the want has this number."""
        self.answer, self._paths = answer, []
        if len(self._told) > _MAX_TOLD:
            self._told.clear()

    def forget_told(self) -> None:
        """Nothing of it counts as told any more."""
        self._told.clear()

    def grew(self, tokens: _Path) -> None:
        """The target decided these tokens: what was wanted is wanted below them, if it is to run ahead."""
        count = len(tokens)
        self.position += count
        self._told = {path[count:] for path in self._told if len(path) > count and path[:count] == tokens}
        self.want = replace(self.want, below=()) if self.want is not None and self.runs_ahead else None

    def read_later(self, tokens: _Path) -> None:
        """The target decided these tokens, and nobody waits for what the drafter makes of them."""
        self.position += len(tokens)
        self.unread += tokens
        self._told.clear()

    def to_score(self) -> Ask:
        """A question whose answer needs to know what the drafter would have said in place of each unread token."""
        self.num_scoring = len(self.unread)
        return Ask(sequence=sequence_id(self.sequence), num_nodes=1, below=self.unread, max_depth=1, max_children=1)

    @property
    def may_gather(self) -> bool:
        """Whether nobody waits for the next nodes: an answer is under way, and the first of it were told."""
        return self.answer is not None and len(self._paths) > self.num_eager

    def tell(self, nodes: Sequence[DraftNode], *, is_last: bool) -> list[fleet_pb2.Draft]:
        """What is new of these nodes of the answer, a draft for each place that some of them hang at."""
        below = self.want.below if self.want is not None else ()
        drafts: dict[_Path, fleet_pb2.Draft] = {}
        places: dict[_Path, tuple[fleet_pb2.Draft, int]] = {}
        for node in nodes:
            above = below if node.parent == ROOT else self._paths[node.parent]
            path = (*above, node.token)
            self._paths.append(path)
            if path in self._told:
                continue
            self._told.add(path)
            if above in places:
                draft, parent = places[above]
            else:
                draft, parent = drafts.setdefault(above, draft_to_wire(self, above)), ROOT
            places[path] = draft, len(draft.nodes)
            draft.nodes.append(fleet_pb2.DraftNode(token=node.token, parent=parent, confidence=node.confidence))
        told = list(drafts.values())
        if is_last:
            self.answer = None
            if not self.runs_ahead:
                self.want = None
            # Where there is nothing new to tell, there is nothing more below what was told last.
            told = told or [draft_to_wire(self, self._paths[-1] if self._paths else below)]
            told[-1].is_last = True
        return told


def draft_to_wire(about: Followed | fleet_pb2.Want, below: Sequence[int], *, is_last: bool = False) -> fleet_pb2.Draft:
    """A draft without nodes."""
    return fleet_pb2.Draft(
        sequence=about.sequence, epoch=about.epoch, position=about.position, below=below, is_last=is_last
    )
