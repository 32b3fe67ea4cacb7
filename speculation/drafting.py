"""What drafters said about one sequence, priced by what their word proved worth; and what verdicts teach about them.

The one place where the pieces meet: raw scores come in, calibrated confidences go into the living tree, and a verdict
goes back into calibration, scores and accepted length. The service, the simulator and the single-process generator
differ in who carries the messages; what a message does to a sequence is this file.

Drafts may be late. A drafter names where its nodes hang by the position of the first token below the root that it knew
and the path from there. Whatever was committed since is walked through first: what agrees hangs below the new root,
what does not is an orphan. So a late draft is worth what is left of it, and never hangs in a wrong place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, DraftNode, TenantId, Verdict
from speculation.calibration import Calibrator
from speculation.frontier import Evidence, Settled
from speculation.fusion import Agreement, voice_weight
from speculation.scores import ScoreKind, kind_at
from speculation.sequence_scores import SequenceScores
from speculation.tree import TokenTree
from speculation.trials import AcceptedLength

__all__ = ["Drafting"]


@dataclass(frozen=True, slots=True)
class _Behind:
    """A place on the committed tokens, above the root: `position` is that of the next token."""

    position: int


_Place = int | _Behind | None
"""Where a draft node hangs: a node of the tree, still above its root, or nowhere any more."""


class Drafting:
    """See the module. `tokens` are the committed ones so far, prompt included."""

    def __init__(
        self,
        *,
        tenant: TenantId,
        tokens: Sequence[int],
        temperature: float,
        features: NDArray[np.float64],  # [num_features]
        calibrator: Calibrator,
        max_nodes: int = 256,
    ) -> None:
        self.tenant, self.features = tenant, features
        self._voices: dict[DrafterId, float] = {}  # how much each counts, as of the last time that it spoke
        self.combine = Agreement(self._voices)
        """One confidence from those of several drafters."""
        self.tree = TokenTree(next_position=len(tokens), max_nodes=max_nodes, combine=self.combine)
        self.scores = SequenceScores({})
        self.accepted_length = AcceptedLength()
        self.drafters: tuple[DrafterId, ...] = ()
        """Who drafts for the sequence now, the most promising first."""
        self._kind_with_logits = kind_at(temperature)
        self._kind_of: dict[DrafterId, ScoreKind] = {}
        self._calibrator = calibrator
        self._first_position = len(tokens)
        self._committed: list[int] = []
        self._heard: set[DrafterId] = set()  # since the last verdict, about the next token or what may follow it

    def join(self, drafter: DrafterId, prior: float, *, has_logits: bool) -> None:
        """A drafter that may draft or follow from now on; `has_logits`: its confidences come from a model."""
        self.scores.join(drafter, prior)
        self._kind_of[drafter] = self._kind_with_logits if has_logits else ScoreKind.COUNTED

    def leave(self, drafter: DrafterId) -> None:
        """It is gone, and so is what it alone said."""
        self._kind_of.pop(drafter, None)
        self.scores.leave(drafter)
        self.tree.withdraw(drafter)
        self.drafters = tuple(other for other in self.drafters if other != drafter)

    @property
    def members(self) -> frozenset[DrafterId]:
        """Those that joined and have not left."""
        return frozenset(self._kind_of)

    def take(
        self,
        drafter: DrafterId,
        nodes: Sequence[DraftNode],
        *,
        position: int | None = None,
        below: Sequence[int] = (),
    ) -> list[int | None]:
        """Puts a drafter's nodes into the tree, below the path `below` from `position` (default: the root's).

        The tree's id of each node, None for one that is not in it: it found no place, or is committed by now. Whoever
        speaks and has no word about the next token in the tree when that is decided did not know it.
        """
        kind = self._kind_of.get(drafter)
        if kind is None:
            raise InvalidArgument(f"drafter {drafter} has not joined this sequence; known are {sorted(self._kind_of)}")
        _check_parents(drafter, nodes)
        score = self.scores.score(drafter)
        self._voices[drafter] = voice_weight(
            score, max((self.scores.score(one) for one in self.drafters), default=score)
        )
        position = self.tree.next_position if position is None else position
        start = self._place(position, below)
        if position == self.tree.next_position:
            self._heard.add(drafter)
        places: list[_Place] = []
        for node in nodes:
            parent = start if node.parent == ROOT else places[node.parent]
            places.append(self._grow(parent, node, drafter, kind))
        # A later node may have pushed out an earlier one of a full tree.
        return [place if isinstance(place, int) and place in self.tree else None for place in places]

    def followed(self, drafter: DrafterId, *, num_tokens: int, num_agreed: int) -> None:
        """Free evidence: so often a drafter that did not draft would have said what was committed."""
        if drafter in self._kind_of:
            for index in range(num_tokens):
                self.scores.followed(drafter, float(index < num_agreed))

    def settle(self, verdict: Verdict) -> Settled:
        """Re-roots the tree, and learns. A verdict that came too late changes nothing."""
        checked = self.tree.in_flight is not None and len(self.tree.in_flight.ids) > 0
        knew = {drafter for child in self.tree[self.tree.root].children.values() for drafter in child.said}
        settled = self.tree.settle(verdict)
        if settled.stale:
            return settled
        self._committed += verdict.tokens
        if checked:
            self.accepted_length.observe(settled.num_accepted)
        for each in settled.tested:
            if (kind := self._kind_of.get(each.drafter)) is not None:
                self._calibrator.learn(each.drafter, kind, each.depth, each.score, chosen=each.chosen)
        for first in _first_choices(settled.tested):
            if first.drafter in self._kind_of:
                self.scores.drafted(first.drafter, confidence=first.confidence, chosen=first.chosen)
        for drafter in (self._heard - knew) & self._kind_of.keys():
            self.scores.followed(drafter, 0.0)
        self._heard.clear()
        return settled

    # Inside

    def _place(self, position: int, below: Sequence[int]) -> _Place:
        if not self._first_position <= position <= self.tree.next_position:
            raise InvalidArgument(
                f"drafts hang below position {position}; this sequence's are {self._first_position} to "
                f"{self.tree.next_position}"
            )
        place: _Place = self._at(position)
        for token in below:
            place = self._follow(place, token)
        return place

    def _at(self, position: int) -> _Place:
        return self.tree.root if position == self.tree.next_position else _Behind(position)

    def _follow(self, place: _Place, token: int) -> _Place:
        """The place after one more token that is there already."""
        if isinstance(place, _Behind):
            agrees = self._committed[place.position - self._first_position] == token
            return self._at(place.position + 1) if agrees else None
        if place is None:
            return None
        child = self.tree[place].children.get(token)
        return None if child is None else child.id

    def _grow(self, place: _Place, node: DraftNode, drafter: DrafterId, kind: ScoreKind) -> _Place:
        if isinstance(place, _Behind):
            followed = self._follow(place, node.token)
            self.tree.num_orphans += followed is None
            return followed
        if place is None or (place not in self.tree and place != self.tree.root):
            self.tree.num_orphans += 1
            return None
        confidence = self._calibrator.confidence(drafter, kind, self.tree.depth(place) + 1, node.confidence)
        return self.tree.add(place, node.token, confidence, drafter, score=node.confidence)


def _check_parents(drafter: DrafterId, nodes: Sequence[DraftNode]) -> None:
    """Refuses nodes that do not form a tree before any of them is in one: they may come from another machine."""
    for index, node in enumerate(nodes):
        if node.parent >= index:
            raise InvalidArgument(
                f"draft node {index} of {drafter} has parent {node.parent}; it is {ROOT} or an earlier node"
            )


def _first_choices(tested: Sequence[Evidence]) -> list[Evidence]:
    """Of what each drafter said at each position, the token that it was surest of."""
    first: dict[tuple[int, DrafterId], Evidence] = {}
    for each in tested:
        key = each.position, each.drafter
        if key not in first or (each.score, each.confidence) > (first[key].score, first[key].confidence):
            first[key] = each
    return list(first.values())
