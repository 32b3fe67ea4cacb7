"""What an engine can be asked to do in a step, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import Internal
from contracts.types import ROOT, DraftNode, SequenceId, StepReport, Verdict

__all__ = ["Candidate", "Draft", "Drafted", "Outcome", "Proposal", "StepResult", "Verify", "Work", "tokens_and_parents"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Compute committed tokens, check a frontier below them, and let the model decide.

    With `num_pending` smaller than what is pending this is a chunk of the prompt: nothing is decided, and there can
    be no nodes. Without nodes it is a plain step. `masks` is empty, or holds for the last committed token and then
    for each node the tokens allowed after it (bit t % 8 of byte t // 8), or None for all.
    """

    sequence: SequenceId
    num_pending: int | None = None
    nodes: tuple[DraftNode, ...] = ()
    masks: tuple[bytes | None, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Compute committed tokens and new tree nodes, and say what the model would continue them with.

    Nodes are (token, parent), the parent an index among all of the sequence's nodes, or ROOT; they stay in the cache
    until `Engine.commit` decides about them.

    With `num_more` the step may go on by itself: below `more_below`, one of these nodes or ROOT, it puts the best
    candidate as a node, below that one the best of what comes there, and so on, at most so often. Where it cannot, or
    there is no room, it leaves that out: whoever asked can go on in further steps.
    """

    sequence: SequenceId
    num_pending: int | None = None
    nodes: tuple[tuple[int, int], ...] = ()
    num_more: int = 0
    more_below: int = ROOT

    def own_nodes(self, first_node: int, count: int) -> list[tuple[int, int]]:
        """The first so many nodes that the step puts there itself, with tokens that are found out in it. `first_node`
        is the index of the step's first one."""
        first = first_node + len(self.nodes)
        return [(0, first + index - 1 if index else self.more_below) for index in range(count)]


Work = Verify | Draft


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A token that could come next, and its scaled logit plus the shared noise."""

    token: int
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """The best continuations of one row, best first: `parent` is a node's index, or ROOT for the last committed
    token."""

    parent: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafted:
    """The answer to `Draft`; without proposals while the prompt is not through. `more` are the tokens of the nodes that
    the step put there itself, which come after those that it was asked for."""

    first_node: int
    proposals: tuple[Proposal, ...]
    more: tuple[int, ...] = ()


Outcome = Verdict | Drafted | Internal | None
"""None for a `Verify` that was a chunk of a prompt; an error where the model left a sequence no token to choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One outcome for each piece of work, in its order, and what the step cost."""

    outcomes: tuple[Outcome, ...]
    report: StepReport


def tokens_and_parents(piece: Work) -> list[tuple[int, int]]:
    """The new nodes of a piece of work as (token, parent)."""
    if isinstance(piece, Draft):
        return list(piece.nodes)
    return [(node.token, node.parent) for node in piece.nodes]
