"""One sequence as the scheduler sees it: committed tokens, how it speculates, and where its tokens go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contracts.types import DrafterId, Epoch, SamplingParams, SequenceId, TenantId, TokenLogprob
from router.fused_steps import FusedSteps
from router.modes import ModeParts
from speculation.drafting import Drafting
from speculation.fusion import FusionKind
from speculation.manner import Manner
from speculation.reach import ALL, Reach
from speculation.resting import Resting

_FIRST_EPOCH = Epoch(0)

__all__ = ["Constraint", "Output", "RoutedSequence", "SequenceFigures"]


class Output(Protocol):
    """Where the tokens of a sequence go. It alone knows when a sequence has ended by what it says."""

    def take(
        self, tokens: Sequence[int], guessed_by: Sequence[DrafterId | None], logprobs: Sequence[TokenLogprob]
    ) -> bool:
        """Tokens that the target decided, each with who guessed it; whether the sequence has ended with one of them.

        Tokens after the one that ended it are not taken.
        """
        ...

    def fail(self, code: str, reason: str) -> None:
        """The sequence ended without its last token."""
        ...


class Constraint(Protocol):
    """Which tokens may follow, where an answer has to have a form."""

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> tuple[bytes, ...]:
        """Allowed tokens after what is committed and after each node, one bit a token; see `engine.work.Verify`."""
        ...

    def advance(self, tokens: Sequence[int]) -> None:
        """These were committed."""
        ...


@dataclass(slots=True)
class SequenceFigures:
    """What speculation did for one sequence."""

    num_rounds: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    rounds_by_accepted: list[int] = field(default_factory=list)
    accepted_by_drafter: dict[DrafterId, int] = field(default_factory=dict)

    def count(self, num_checked: int, guessed_by: Sequence[DrafterId | None]) -> None:
        """A round that checked so many nodes, and who guessed each token that it committed."""
        accepted = [drafter for drafter in guessed_by if drafter is not None]
        self.num_rounds += 1
        self.num_draft_tokens += num_checked
        self.num_accepted_tokens += len(accepted)
        self.rounds_by_accepted += [0] * (len(accepted) + 1 - len(self.rounds_by_accepted))
        self.rounds_by_accepted[len(accepted)] += 1
        for drafter in accepted:
            self.accepted_by_drafter[drafter] = self.accepted_by_drafter.get(drafter, 0) + 1


@dataclass(slots=True, kw_only=True, eq=False)
class RoutedSequence:
    """See the module. `tokens` are prompt and answer so far; `parts` and `max_draft` are how it speculates."""

    id: SequenceId
    tenant: TenantId
    tokens: list[int]
    num_prompt: int
    max_tokens: int
    sampling: SamplingParams
    parts: ModeParts
    max_draft: int
    drafting: Drafting
    output: Output
    request: str = ""
    trace: str = ""
    """The place of its span in a trace, for the spans of those who work for it; empty where there is none."""
    constraint: Constraint | None = None
    allowed_drafters: frozenset[DrafterId] | None = None
    priority: int = 0
    deadline_s: float = float("inf")
    epoch: Epoch = _FIRST_EPOCH
    num_sent: int = 0
    """Tokens whose computation the verifier was asked for in this epoch."""
    is_decoding: bool = False
    """Whether the target has decided a token in this epoch, so that a round is one row and the drafts."""
    is_in_round: bool = False
    num_cached: int | None = None
    """Prompt tokens that the verifier had in its prefix cache when the sequence began; None until it has said so."""
    submitted_s: float = 0.0
    """When it began to wait for its turn."""
    reach: Reach = ALL
    """How far its drafters should go."""
    asked_s: float = 0.0
    """When its drafters last heard of it."""
    decided_s: float = 0.0
    """When the last verdict came."""
    unheard: frozenset[DrafterId] = frozenset()
    """Those of its drafters that have said nothing usable since then."""
    finished_drafters: set[DrafterId] = field(default_factory=set)
    """Those that have nothing more to say about this position."""
    figures: SequenceFigures = field(default_factory=SequenceFigures)
    resting: Resting = field(default_factory=Resting)
    manner: Manner = Manner.AHEAD
    """In which the fleet drafts for the likes of it at present."""
    most_drafters: int = 256
    """How many may draft for it at present, where load and mode allow as many."""
    fusion: FusionKind | None = None
    """How its drafters work together, once it has had several."""
    steps: FusedSteps | None = None
    """Where they are, while they step together."""

    @property
    def position(self) -> int:
        """Index of the next token."""
        return len(self.tokens)

    @property
    def runs_ahead(self) -> bool:
        """Whether its drafters draft on while the target verifies."""
        return self.manner is Manner.AHEAD and self.parts.runs_ahead

    @property
    def is_plain(self) -> bool:
        """Whether nobody drafts for it at present."""
        return self.manner is Manner.PLAIN or self.resting.now

    @property
    def max_depth(self) -> int:
        """How deep drafters go: when they run ahead, past what a round may check, into what the next ones may."""
        return 2 * self.max_draft if self.runs_ahead else self.max_draft

    @property
    def num_left(self) -> int:
        """Tokens that may still be generated."""
        return self.num_prompt + self.max_tokens - len(self.tokens)

    @property
    def awaits_drafts(self) -> bool:
        """Whether a drafter is still at work for it."""
        return any(drafter not in self.finished_drafters for drafter in self.drafting.drafters)

    def restart(self) -> None:
        """The verifier lost it: everything is computed again, under a new epoch."""
        self.epoch = Epoch(self.epoch + 1)
        self.num_sent, self.is_decoding, self.is_in_round = 0, False, False
        self.drafting.tree.abandon()
