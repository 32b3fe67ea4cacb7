"""From what the journal has of a request to the request itself, as if its router had never been away."""

from __future__ import annotations

from contracts.types import ModelIdentity
from router.answer import Reason
from router.journal.records import Recorded
from router.request import Request

__all__ = ["differs", "give_up", "ran_s", "replay"]


def differs(found: Recorded, model: ModelIdentity) -> str:
    """Why a request that began on one model must not go on with this one, or nothing. One that has ended needs no more
    than the tokenizer.
    """
    began = found.accepted.model
    has_ended = all(choice.ended is not None for choice in found.choices)
    if began == model or (has_ended and began.same_tokenizer(model)):
        return ""
    return (
        f"the request began with {began.name} ({began.weights_digest[:12]}, {began.dtype}) and the fleet now runs "
        f"{model.name} ({model.weights_digest[:12]}, {model.dtype}); a text must not change its model"
    )


def replay(request: Request, found: Recorded) -> None:
    """Says again what was said. The same tokens give the same text, so the detokenizer and the search for stop strings
    are where they were, and an answer that had ended by what it said has ended again.
    """
    for choice, said in zip(request.choices, found.choices, strict=True):
        choice.answer.take(said.tokens, said.guessed_by, said.logprobs)
        choice.is_replayed = bool(said.tokens)
        if choice.sequence.constraint is not None:
            choice.sequence.constraint.advance(said.tokens)
        if (ended := said.ended) is not None:
            choice.answer.end(ended.reason, error=ended.error)
            choice.sequence.figures, choice.sequence.num_cached = ended.figures, ended.num_cached
            choice.first_token_s = request.began_s + ended.first_token_s if ended.first_token_s else 0.0
            choice.ended_s = request.began_s + ended.elapsed_s


def give_up(request: Request, reason: str) -> None:
    """Ends what cannot go on."""
    for choice in request.choices:
        choice.answer.end(Reason.ERROR, error=f"Unavailable: {reason}")


def ran_s(found: Recorded, wall_s: float) -> float:
    """For how long it has run.

    Two machines, or two lives of one, share no clock but the world's, which may have jumped; not back to before the
    request was accepted, which would give it more time than its deadline.
    """
    return max(wall_s - found.accepted.accepted_s, 0.0)
