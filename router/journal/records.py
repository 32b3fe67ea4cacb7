"""What the journal says of a request, record by record, and what it comes to when it is read again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.errors import Internal
from contracts.types import DrafterId, ModelIdentity, TokenLogprob
from router.answer import Reason
from router.asked import Asked
from router.request_key import RequestKey
from router.sequence import SequenceFigures

__all__ = ["Accepted", "Committed", "Ended", "Record", "Recorded", "RecordedChoice", "recorded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """All that is needed to run a request again, on the model that it began with. Nothing in `asked` is left open: its
    prompt is `prompt`, and it has an id, a seed and a mode.
    """

    asked: Asked
    prompt: tuple[int, ...]
    model: ModelIdentity
    accepted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Tokens of one choice from an index on, and who guessed each; `logprobs` are none, or one for each."""

    choice: int
    first_index: int
    tokens: tuple[int, ...]
    guessed_by: tuple[DrafterId | None, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of one choice. Times are counted from its acceptance."""

    choice: int
    reason: Reason
    error: str
    num_cached: int
    figures: SequenceFigures
    first_token_s: float
    elapsed_s: float


Record = Accepted | Committed | Ended


@dataclass(slots=True)
class RecordedChoice:
    """What was decided of one choice, and its end if it has one."""

    tokens: list[int] = field(default_factory=list)
    guessed_by: list[DrafterId | None] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ended: Ended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A request as the journal has it."""

    accepted: Accepted
    choices: list[RecordedChoice]
    num_records: int


def recorded(key: RequestKey, records: Iterable[Record]) -> Recorded:
    """Puts the records of a request together; Internal where they are not those of one request in order."""
    read = list(records)
    if not read or not isinstance(accepted := read[0], Accepted):
        raise Internal(f"the journal of request {key} does not begin with what was asked; it cannot be run again")
    if (accepted.asked.tenant, accepted.asked.request_id) != key:
        raise Internal(f"the journal of request {key} begins with another one; it cannot be run again")
    choices = [RecordedChoice() for _ in range(accepted.asked.num_choices)]
    for record in read[1:]:
        if isinstance(record, Accepted) or not 0 <= record.choice < len(choices):
            raise Internal(f"the journal of request {key} has a record that is not its own: {record!r:.200}")
        choice = choices[record.choice]
        if isinstance(record, Ended):
            choice.ended = record
        elif record.first_index != len(choice.tokens):
            raise Internal(
                f"the journal of request {key} has {len(choice.tokens)} tokens of choice {record.choice} and goes "
                f"on with number {record.first_index}"
            )
        else:
            choice.tokens += record.tokens
            choice.guessed_by += record.guessed_by
            choice.logprobs += record.logprobs
            if len(choice.logprobs) not in (0, len(choice.tokens)):
                raise Internal(f"the journal of request {key} has log-probabilities of only some tokens")
    return Recorded(accepted=accepted, choices=choices, num_records=len(read))
