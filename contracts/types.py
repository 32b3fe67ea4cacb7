"""The values that rooms hand each other: ids, draft nodes, verdicts, step reports, model identity.

What a client asks for (sampling and stop parameters) has a file of its own, `contracts/sampling.py`; both are
exported here, so that other rooms write `from contracts.types import ...` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from contracts.errors import InvalidArgument
from contracts.sampling import SamplingParams, StopParams

__all__ = [
    "ROOT",
    "DraftNode",
    "DrafterId",
    "Epoch",
    "Feedback",
    "ModelIdentity",
    "RequestId",
    "SamplingParams",
    "SequenceId",
    "StepReport",
    "StopParams",
    "TenantId",
    "TokenLogprob",
    "Verdict",
]

RequestId = NewType("RequestId", str)
SequenceId = NewType("SequenceId", str)
DrafterId = NewType("DrafterId", str)
TenantId = NewType("TenantId", str)
Epoch = NewType("Epoch", int)

ROOT = -1
"""Parent of a draft node that hangs directly below the sequence's last committed token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftNode:
    """One proposed token below a parent, with its confidence and the drafter that said it.

    A frontier is a sequence of nodes in which every parent comes before its children: `parent` is the index of
    the parent in that sequence, or `ROOT`. `confidence` is the chance that the target picks this token given that
    it picked the parent.
    """

    token: int
    parent: int
    confidence: float
    drafter: DrafterId

    def __post_init__(self) -> None:
        if self.token < 0:
            raise InvalidArgument(f"draft node token is {self.token}; a token id is 0 or more")
        if self.parent < ROOT:
            raise InvalidArgument(f"draft node parent is {self.parent}; it is {ROOT} (the root) or an index from 0")
        if not 0.0 <= self.confidence <= 1.0:  # NaN fails this too
            raise InvalidArgument(f"draft node confidence is {self.confidence}; it lies between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Log-probability of a committed token, and of the target's most likely ones, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What a round found out about one frontier node; calibration and expertise learn from it.

    Only a node with `parent_accepted` was put to the test: the target chose at its parent, and either chose this
    node or did not. Below a rejected parent nothing was learned about the node's confidence, which is conditional
    on its parent. `pruned` nodes left the pass between two layers, so they were not tested either, and are never
    chosen. `target_logprob` is the target's log-probability of the node's token at its parent, and None where the
    round did not compute it.
    """

    parent_accepted: bool
    chosen: bool
    pruned: bool = False
    target_logprob: float | None = None

    def __post_init__(self) -> None:
        if self.chosen and (self.pruned or not self.parent_accepted):
            raise InvalidArgument(
                f"feedback says chosen with parent_accepted={self.parent_accepted} and pruned={self.pruned}; "
                "a chosen node has an accepted parent and was not pruned"
            )

    @property
    def was_tested(self) -> bool:
        """Whether `chosen` is evidence about the node's confidence."""
        return self.parent_accepted and not self.pruned


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a round decided for one sequence.

    `accepted` are the frontier indices along the accepted path, from the root down; `tokens` are their tokens and
    then the target's own next token, so there is always one more of them. `position` is the index in the sequence
    of the first of `tokens`. `logprobs` is empty, or holds one entry for each of `tokens`; `feedback` is empty, or
    holds one entry for each node of the frontier in its order.
    """

    sequence: SequenceId
    epoch: Epoch
    position: int
    accepted: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    feedback: tuple[Feedback, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.accepted) + 1:
            raise InvalidArgument(
                f"verdict for {self.sequence} has {len(self.tokens)} tokens and {len(self.accepted)} accepted nodes; "
                "there is one token for each accepted node and one more, the target's own"
            )
        if len(self.logprobs) not in (0, len(self.tokens)):
            raise InvalidArgument(
                f"verdict for {self.sequence} has {len(self.logprobs)} logprobs for {len(self.tokens)} tokens; "
                "there are none, or one for each token"
            )
        if self.position < 0:
            raise InvalidArgument(f"verdict for {self.sequence} has position {self.position}; it is 0 or more")

    @property
    def next_position(self) -> int:
        """Index that the sequence's next token will have."""
        return self.position + len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step of an engine did and how long it took; the cost table is made of these.

    `num_context` is the sum over rows of the keys each row attends, itself included; `num_rows_pruned` counts the
    rows that left between two layers. One that is not `is_typical` met a shape of rows that a GPU had to be made ready
    for: its like will take less.
    """

    num_rows: int
    num_context: int
    num_sequences: int
    elapsed_s: float
    num_rows_pruned: int = 0
    is_typical: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What makes two copies of a model the same one, for promise 1 (same model, same text) and for the wire.

    Drafters and target must share a tokenizer, for only token ids cross the network between them.
    """

    name: str
    architecture: str
    vocab_size: int
    tokenizer_digest: str
    weights_digest: str
    dtype: str
    num_parameters: int

    def same_tokenizer(self, other: ModelIdentity) -> bool:
        """Whether a token id means the same to both; embedding tables may be padded to different sizes."""
        return self.tokenizer_digest == other.tokenizer_digest
