"""The one protocol of all drafters, with or without a model. Calls take many sequences at once.

A drafter follows the committed tokens of sequences and proposes what comes next as trees. Nothing that it says can
change what the target says; it says what is worth checking. So its promises are about itself:

- A tree lists parents before children, no parent has the same token below it twice, and there are never more nodes than
  were asked for.
- A confidence lies in [0, 1]: the drafter's own raw estimate that the target picks the node after its parent. The
  router calibrates it. Siblings' confidences add up to at most one.
- The same calls in the same order give the same trees. There is no clock and no random state; chance, where a kind
  has any, is the shared noise.
- A call that is refused has changed nothing, for any of its sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contracts.errors import InvalidArgument, shown
from contracts.types import DraftNode, SamplingParams, SequenceId, TenantId, TokenLogprob

__all__ = ["Ask", "Commit", "Drafter", "Noise", "Opening", "RememberingDrafter"]

Noise = Callable[[int, int, Sequence[int]], Sequence[float]]
"""The shared noise of some tokens at a position: (seed, position, tokens) -> one value for each token. A position is
the index in the sequence of the token that is chosen, as in the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A sequence to follow: who it belongs to, its committed tokens so far, and how its tokens are chosen."""

    sequence: SequenceId
    tenant: TenantId
    tokens: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Tokens that the target decided. `position` is the index of the first, and shows a lost or repeated message.

    `logprobs` is empty, or holds for each token what the target thought there, as in a `Verdict`; drafters that learn
    from the target's other candidates learn more with it.
    """

    sequence: SequenceId
    position: int
    tokens: Sequence[int]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A wish for at most `num_nodes` draft nodes.

    They hang below the committed tokens followed by `below`: tokens that are proposed already (run-ahead), not part of
    the answer. The answer's `ROOT` is the last token of `below`, or the last committed one. The tree is at most
    `max_depth` deep and no node has more than `max_children` children; None leaves it to the drafter. One child makes
    a chain, depth 1 the candidates of a single step. Below nodes of a value under `least_value`, the product of the
    confidences down to them, nobody need look, for it would take more time than it is worth.
    """

    sequence: SequenceId
    num_nodes: int
    below: tuple[int, ...] = ()
    max_depth: int | None = None
    max_children: int | None = None
    least_value: float = 0.0

    def __post_init__(self) -> None:
        if self.num_nodes < 0:
            raise InvalidArgument(
                f"sequence {shown(self.sequence)} is asked for {shown(self.num_nodes)} nodes; right is 0 or more"
            )
        for name, limit in (("max_depth", self.max_depth), ("max_children", self.max_children)):
            if limit is not None and limit < 1:
                raise InvalidArgument(f"{name} of an ask is {shown(limit)}; right is 1 or more, or None")
        if not 0.0 <= self.least_value <= 1.0:  # NaN fails this too
            raise InvalidArgument(f"least_value of an ask is {shown(self.least_value)}; right is from 0 to 1")


class Drafter(Protocol):
    """What the drafter node hosts."""

    @property
    def kind(self) -> str:
        """The name that the registry knows it by."""

    @property
    def num_logprobs(self) -> int:
        """Of how many of the target's likeliest tokens it learns at each place; 0 where tokens are all it wants."""

    def open(self, openings: Sequence[Opening]) -> None:
        """Follow these sequences from now on."""

    def commit(self, commits: Sequence[Commit]) -> None:
        """Append what was decided."""

    def propose(self, asks: Sequence[Ask]) -> list[tuple[DraftNode, ...]]:
        """One tree for each ask, in its order; empty where there is nothing to say."""

    def close(self, sequences: Sequence[SequenceId]) -> None:
        """Forget these sequences; a memory of their tenant keeps what it learned."""


class RememberingDrafter(Drafter, Protocol):
    """A drafter that learns from the sequences of a tenant for later ones of the same tenant, and of no other.

    Snapshots are plain data (dicts, lists, numbers and text, fit for JSON), with a version. Reading one believes
    nothing: what is refused is refused as a whole, and the memory is as it was.
    """

    def forget(self, tenant: TenantId | None = None) -> None:
        """Drop all that was learned from a tenant, or from all; open sequences go on and start anew."""

    def on_evicted(self, tell: Callable[[TenantId], None]) -> None:
        """From now on tell whose memory is dropped to make room for others."""

    def snapshot(self, tenant: TenantId, *, max_bytes: int | None = None) -> dict[str, object]:
        """All that was learned from a tenant; or, where a kind can leave something out, what has about so many bytes at
        most when packed."""

    def restore(self, tenant: TenantId, snapshot: object) -> None:
        """Replace what was learned from a tenant."""

    def prepared(self, tenant: TenantId, snapshot: object) -> Callable[[], None]:
        """Read a snapshot, in any thread, for it touches nothing; the answer, called in the drafter's own thread, makes
        it the tenant's memory, with what was learned meanwhile added."""

    def merge(self, tenant: TenantId, snapshot: object) -> None:
        """Add what another drafter of this kind learned from the tenant."""

    def num_bytes(self, tenant: TenantId | None = None) -> int:
        """Estimated size of a tenant's memory, or of all."""
