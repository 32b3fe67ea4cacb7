"""What an engine can be asked to do in a step, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import Internal
from contracts.types import DraftNode, SequenceId, StepReport, Verdict

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
    """

    sequence: SequenceId
    num_pending: int | None = None
    nodes: tuple[tuple[int, int], ...] = ()


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
    """The answer to `Draft`; without proposals while the prompt is not through."""

    first_node: int
    proposals: tuple[Proposal, ...]


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
