"""What the scheduler asks of workers, and what they report: the fleet protocol without its wire.

The gRPC servicer translates these to messages; a simulator answers them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contracts.types import (
    DrafterId,
    DraftNode,
    Epoch,
    ModelIdentity,
    SamplingParams,
    SequenceId,
    StepReport,
    TenantId,
    TokenLogprob,
    Verdict,
)
from speculation.sequel import Sequel, SequelPart

__all__ = [
    "LINK_S",
    "Cached",
    "Draft",
    "DrafterLink",
    "DrafterOffer",
    "DrafterOrders",
    "Drafts",
    "Evidence",
    "Failure",
    "Opened",
    "RoundDone",
    "RoundItem",
    "RoundOrder",
    "TokensDecided",
    "VerifierLink",
    "VerifierOffer",
    "VerifierOrders",
    "Wish",
]


LINK_S = 0.0005  # message to a worker and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A sequence that a worker is to follow, with its committed tokens; `request` and `trace` are to tell of it."""

    sequence: SequenceId
    epoch: Epoch
    tenant: TenantId
    tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    request: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundItem:
    """One sequence's part of a round; `num_pending` None computes all that is committed."""

    sequence: SequenceId
    epoch: Epoch
    position: int
    num_pending: int | None = None
    nodes: tuple[DraftNode, ...] = ()
    masks: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOrder:
    """One pass of the target."""

    round: int
    items: tuple[RoundItem, ...]


@dataclass(slots=True, kw_only=True)
class VerifierOrders:
    """One message to a verifier group: close, then open, then the round, and what it may go on with after a round."""

    close: list[SequenceId] = field(default_factory=list)
    open: list[Opened] = field(default_factory=list)
    round: RoundOrder | None = None
    sequel: Sequel | None = None

    def end(self, sequence: SequenceId) -> None:
        """Closes a sequence, or does not open it after all."""
        num_before = len(self.open)
        self.open = [opened for opened in self.open if opened.sequence != sequence]
        if len(self.open) == num_before:
            self.close.append(sequence)

    def __bool__(self) -> bool:
        return bool(self.close or self.open or self.round is not None or self.sequel is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensDecided:
    """Committed tokens for those who follow a sequence; `position` is the index of the first."""

    sequence: SequenceId
    epoch: Epoch
    position: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a drafter is to draft below the committed tokens; with no nodes it only follows. With `run_ahead` it holds
    after every commit again, and of what it finds the first `num_eager` nodes are wanted as soon as possible (0: all),
    for a round may wait for them. Below nodes of less than `least_value`, by its own confidences, it need not look."""

    sequence: SequenceId
    epoch: Epoch
    position: int
    num_nodes: int
    below: tuple[int, ...] = ()
    max_depth: int = 0
    max_children: int = 0
    run_ahead: bool = False
    num_eager: int = 0
    least_value: float = 0.0


@dataclass(slots=True, kw_only=True)
class DrafterOrders:
    """One message to a drafter: close, then open, then commit, then the wishes."""

    close: list[SequenceId] = field(default_factory=list)
    open: list[Opened] = field(default_factory=list)
    commit: list[TokensDecided] = field(default_factory=list)
    want: list[Wish] = field(default_factory=list)

    def end(self, sequence: SequenceId) -> None:
        """Closes a sequence, or does not open it after all; there is no more to be said about it either way."""
        num_before = len(self.open)
        self.open = [opened for opened in self.open if opened.sequence != sequence]
        self.commit = [news for news in self.commit if news.sequence != sequence]
        self.want = [wish for wish in self.want if wish.sequence != sequence]
        if len(self.open) == num_before:
            self.close.append(sequence)

    def wish(self, wish: Wish) -> None:
        """What is wanted of a sequence now; it takes the place of what was wanted before."""
        self.want = [other for other in self.want if other.sequence != wish.sequence]
        self.want.append(wish)

    def __bool__(self) -> bool:
        return bool(self.close or self.open or self.commit or self.want)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A sequence that a round could not serve."""

    sequence: SequenceId
    epoch: Epoch
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """How many tokens of a sequence the prefix cache had when it was opened."""

    sequence: SequenceId
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDone:
    """What came of a round. An item with neither verdict nor failure was a chunk of a prompt. There is no report where
    no item could be computed. `cached` is about the sequences that were opened since the last round; `going_on` is what
    the sequel of this round has begun with."""

    round: int
    verdicts: tuple[Verdict, ...]
    failures: tuple[Failure, ...]
    report: StepReport | None
    began_s: float
    num_free_blocks: int
    cached: tuple[Cached, ...] = ()
    going_on: tuple[SequelPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Nodes for one sequence, below `below` from `position`; `is_last`: nothing more comes unasked."""

    sequence: SequenceId
    epoch: Epoch
    position: int
    below: tuple[int, ...]
    nodes: tuple[DraftNode, ...]
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Of a sequence that a drafter only follows: at how many of so many tokens it would have said the same."""

    sequence: SequenceId
    epoch: Epoch
    num_tokens: int
    num_agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """One message of a drafter."""

    drafts: tuple[Draft, ...]
    steps: tuple[StepReport, ...]
    began_s: float
    ended_s: float
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierOffer:
    """A verifier group as it introduces itself."""

    name: str
    model: ModelIdentity
    num_ranks: int
    max_context: int
    max_batch_rows: int
    num_blocks: int
    block_tokens: int
    eos_token_ids: frozenset[int]
    num_real_tokens: int
    probes: tuple[StepReport, ...]
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterOffer:
    """A drafter as it introduces itself."""

    drafter: DrafterId
    kind: str
    model: ModelIdentity | None
    has_logits: bool
    num_logprobs: int
    capacity: int
    step_s: float
    prefill_s_per_token: float
    max_context: int
    device: str
    remembers: bool = False


class VerifierLink(Protocol):
    """The way to a verifier group. Sending never waits."""

    def send(self, orders: VerifierOrders) -> None: ...


class DrafterLink(Protocol):
    """The way to a drafter. Sending never waits."""

    def send(self, orders: DrafterOrders) -> None: ...


def num_logprobs_wanted(offers: Sequence[DrafterOffer]) -> int:
    """How many of the target's candidates its verdicts must carry, so that every drafter can learn what it learns."""
    return max((offer.num_logprobs for offer in offers), default=0)
