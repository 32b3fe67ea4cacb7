"""What a client asks for, whatever face it stands before; and the same from the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from contracts.sampling import SamplingParams, StopParams
from contracts.types import TenantId
from router.security.caller import NOBODY
from specfleet.v1 import inference_pb2, types_pb2

__all__ = ["TRACE", "Asked", "Speculation", "sampling_of", "stop_of"]

TRACE = "traceparent"
"""The header, of gRPC and HTTP alike, with which a client says to which trace its request belongs."""

_DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """A request's own wishes; what is None or empty is the fleet's."""

    mode: str | None = None
    max_draft: int | None = None
    drafters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. The prompt is a text, token ids, or chat messages. `seed` None: one is drawn. `fills_context`: the
    answer may be as long as the context has room, if that is less than `stop.max_tokens`. `trace`: the client's place
    in a trace, as W3C's traceparent."""

    prompt: str | Sequence[int] | Sequence[Mapping[str, str]]
    sampling: SamplingParams
    stop: StopParams
    seed: int | None = None
    request_id: str = ""
    model: str = ""
    num_choices: int = 1
    speculation: Speculation = field(default_factory=Speculation)
    priority: int = 0
    deadline_s: float | None = None
    tenant: TenantId = NOBODY
    json_schema: str = ""
    fills_context: bool = False
    trace: str = ""


def sampling_of(message: types_pb2.Sampling) -> SamplingParams:
    """Checked on construction."""
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=dict(message.logit_bias),
        allowed_token_ids=tuple(message.allowed_token_ids.ids) if message.HasField("allowed_token_ids") else None,
        seed=message.seed,
        num_logprobs=message.num_logprobs,
    )


def stop_of(message: inference_pb2.Stop) -> StopParams:
    """Checked on construction."""
    return StopParams(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else _DEFAULT_MAX_TOKENS,
        stop=tuple(message.strings),
        stop_token_ids=tuple(message.token_ids),
        ignore_eos=message.ignore_eos,
    )
