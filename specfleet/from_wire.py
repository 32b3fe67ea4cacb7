"""From the wire's messages to the values that users see."""

from __future__ import annotations

from specfleet.errors import Internal
from specfleet.events import Model, Started, Statistics, TokenEvent, TopLogprob, Usage
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import types_pb2

__all__ = ["finish_reason", "mode_name", "model", "started", "statistics", "token_event", "usage"]


def finish_reason(reason: int) -> str:
    """The reason's name on the wire without its prefix, in small letters; an older client meets newer names as well."""
    try:
        return pb.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()
    except ValueError:
        raise Internal(f"finish reason {reason} is not known to this client; upgrade specfleet") from None


def mode_name(mode: int) -> str:
    """Likewise for modes; a mode that nobody set is the empty name."""
    try:
        name = types_pb2.Mode.Name(mode)
    except ValueError:
        return str(mode)
    return "" if mode == types_pb2.MODE_UNSPECIFIED else name.removeprefix("MODE_").lower()


def started(message: pb.Started) -> Started:
    return Started(num_prompt_tokens=message.num_prompt_tokens, model=message.model, seed=message.seed)


def usage(message: pb.Usage) -> Usage:
    return Usage(
        num_prompt_tokens=message.num_prompt_tokens,
        num_cached_tokens=message.num_cached_tokens,
        num_completion_tokens=message.num_completion_tokens,
    )


def statistics(message: pb.SpeculationStatistics) -> Statistics:
    return Statistics(
        mode=mode_name(message.mode),
        num_rounds=message.num_rounds,
        num_draft_tokens=message.num_draft_tokens,
        num_accepted_tokens=message.num_accepted_tokens,
        mean_acceptance_length=message.mean_acceptance_length,
        acceptance_histogram=tuple(message.acceptance_histogram),
        accepted_by_drafter=dict(message.accepted_by_drafter),
        time_to_first_token_s=message.time_to_first_token_s,
        elapsed_s=message.elapsed_s,
    )


def token_event(token: pb.Token, *, index: int, choice: int, received_s: float) -> TokenEvent:
    has_logprob = token.HasField("logprob")
    return TokenEvent(
        index=index,
        token_id=token.token_id,
        text=token.text,
        drafter=token.drafter or None,
        choice=choice,
        logprob=token.logprob.logprob if has_logprob else None,
        top_logprobs=tuple(TopLogprob(token_id=top.token, logprob=top.logprob) for top in token.logprob.top),
        received_s=received_s,
    )


def model(message: pb.ListModelsResponse.Model) -> Model:
    identity = message.identity
    return Model(
        name=identity.name,
        architecture=identity.architecture,
        dtype=identity.dtype,
        num_parameters=identity.num_parameters,
        vocab_size=identity.vocab_size,
        max_context=message.max_context,
        drafters=tuple(message.drafters),
        is_ready=message.is_ready,
        tokenizer_digest=identity.tokenizer_digest,
        weights_digest=identity.weights_digest,
    )
