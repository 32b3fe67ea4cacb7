"""What may be asked of a generation, and how it becomes a message.

The fleet judges values and says what would be right. Checked here is only what the wire could not carry, or would
carry as something else: wrong types, negative counts, broken text, and a maximum of zero tokens, which on the wire
means the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict
from uuid import uuid4

from google.protobuf.descriptor import FieldDescriptor

from specfleet.errors import InvalidRequest
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import types_pb2

__all__ = ["MODES", "GenerateOptions", "Prompt", "checked_limit_s", "count_request", "generate_request"]

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""A text, token ids, or chat messages of the form {"role": ..., "content": ...}."""

MODES = ("off", "vanilla", "pearl", "fleet")
_MODE_VALUES = dict(
    zip(MODES, (types_pb2.MODE_OFF, types_pb2.MODE_VANILLA, types_pb2.MODE_PEARL, types_pb2.MODE_FLEET), strict=True)
)
DEFAULT_MAX_TOKENS = 256
_ENDLESS_S = 1e9


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `generate` and `complete`. What is left out, or None, changes nothing.

    The same prompt, options and seed give the same tokens, whatever `mode`, `max_draft` and `drafters` are.
    """

    max_tokens: int
    """At most so many tokens; 256 where left out."""
    temperature: float
    """0, the default: always the likeliest token."""
    seed: int | None
    """Keys the randomness above temperature 0; None: the fleet draws one and tells it."""
    mode: str | None
    """How drafters work: off, vanilla, pearl or fleet; None: the fleet's default."""
    top_p: float | None
    """Only the likeliest tokens that have this probability together."""
    top_k: int
    """Only so many of the likeliest tokens; 0: all."""
    min_p: float
    """Only tokens that are at least this part as likely as the likeliest."""
    repetition_penalty: float | None
    """Above 1, tokens that are in the text already become less likely."""
    presence_penalty: float
    """Taken from the logit of each token that was generated already."""
    frequency_penalty: float
    """The same, once for each time that it was generated."""
    stop: str | Sequence[str]
    """The text ends before any of these."""
    stop_token_ids: Sequence[int]
    """The text ends before any of these."""
    ignore_eos: bool
    """The model's own end does not end the text."""
    logit_bias: Mapping[int, float]
    """Added to the logits of these tokens, -100 to 100."""
    allowed_token_ids: Sequence[int] | None
    """No other token may be chosen; None: any may."""
    num_logprobs: int
    """So many of the likeliest tokens are told beside each chosen one."""
    max_draft: int | None
    """At most so many guessed tokens are checked in one round."""
    drafters: Sequence[str]
    """Only these may guess."""
    num_choices: int
    """So many answers; choice i has the seed plus i."""
    priority: int
    """Higher goes first."""
    json_schema: str | None
    """The answer is JSON that fits this schema."""
    request_id: str | None
    """Asking again with the same id asks for the same answer, not for another; None: a new one."""
    model: str | None
    """None: the fleet's own."""
    deadline_s: float | None
    """The whole answer must come within so many seconds."""


def generate_request(prompt: Prompt, options: GenerateOptions) -> pb.GenerateRequest:
    """The message. `deadline_s` is not in it: it travels with the call."""
    _refuse_unknown(options)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    request = pb.GenerateRequest(
        request_id=_text("request_id", given.pop("request_id", None) or str(uuid4())), stop=_stop(given)
    )
    _set_prompt(request, prompt)
    _set(request, given, "model", "priority", "num_choices", "json_schema")
    _set(request.sampling, given, *_SAMPLING)
    if "seed" in given:
        _assign(request.sampling, "seed", given["seed"])
    if "logit_bias" in given:
        _assign_with("logit_bias", given["logit_bias"], request.sampling.logit_bias.update, "token ids to numbers")
    if "allowed_token_ids" in given:
        request.sampling.allowed_token_ids.SetInParent()
        ids = request.sampling.allowed_token_ids.ids
        _assign_with("allowed_token_ids", given["allowed_token_ids"], ids.extend, "a list of token ids")
    if "mode" in given:
        if given["mode"] not in MODES:
            raise InvalidRequest(f"mode is {given['mode']!r}; it is one of {', '.join(MODES)}")
        request.speculation.mode = _MODE_VALUES[given["mode"]]
    _set(request.speculation, given, "max_draft")
    if "drafters" in given:
        _assign_with("drafters", _several(given["drafters"]), request.speculation.drafters.extend, "names")
    return request


def checked_limit_s(name: str, limit_s: float | None) -> float | None:
    """A deadline or timeout; none where it is so far away that gRPC would take it for past."""
    try:
        is_number = limit_s is None or not math.isnan(limit_s)
    except TypeError:
        is_number = False
    if not is_number:
        raise InvalidRequest(f"{name} is {_shown(limit_s)}; it must be a number of seconds")
    return limit_s if limit_s is not None and limit_s < _ENDLESS_S else None


def count_request(prompt: str | Sequence[Mapping[str, str]], model: str | None) -> pb.CountTokensRequest:
    """Asks how many tokens a text or a chat has."""
    request = pb.CountTokensRequest(model=_text("model", model or ""))
    if isinstance(prompt, str):
        request.prompt = _text("prompt", prompt)
    else:
        request.chat.CopyFrom(_chat(prompt))
    return request


_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "num_logprobs",
)


_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: "a whole number below 2^31",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 to 2^32 - 1",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number from 0 to 2^64 - 1",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_STRING: "a text",
}


def _refuse_unknown(options: GenerateOptions) -> None:
    unknown = sorted(set(options) - set(GenerateOptions.__annotations__))
    if unknown:
        known = ", ".join(sorted(GenerateOptions.__annotations__))
        raise TypeError(f"there is no option {unknown[0]!r}; options are {known}")


def _stop(given: Mapping[str, Any]) -> pb.Stop:
    stop = pb.Stop()
    max_tokens = given.get("max_tokens", DEFAULT_MAX_TOKENS)
    _assign(stop, "max_tokens", max_tokens)
    if stop.max_tokens == 0:
        raise InvalidRequest("max_tokens is 0; ask for at least one token")
    _assign_with("stop", _several(given.get("stop", ())), stop.strings.extend, "a text or a list of texts")
    _assign_with("stop_token_ids", given.get("stop_token_ids", ()), stop.token_ids.extend, "a list of token ids")
    _set(stop, given, "ignore_eos")
    return stop


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.prompt = _text("prompt", prompt)
    elif isinstance(prompt, bytes | bytearray) or not _is_sequence(prompt):
        raise InvalidRequest(f"the prompt is {type(prompt).__name__}; give a text, token ids or chat messages")
    elif prompt and isinstance(prompt[0], Mapping):
        request.chat.CopyFrom(_chat(prompt))
    else:
        request.token_ids.SetInParent()
        _assign_with("prompt", prompt, request.token_ids.ids.extend, "a text, token ids or chat messages")


def _chat(messages: Sequence[Any]) -> pb.Chat:
    chat = pb.Chat()
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InvalidRequest(f"message {number} is {_shown(message)}; a message has a role and a content")
        role, content = (_text(f"{key} of message {number}", message[key]) for key in ("role", "content"))
        chat.messages.add(role=role, content=content)
    return chat


def _set(message: Any, given: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name in given:
            _assign(message, name, given[name])


def _assign(message: Any, name: str, value: Any) -> None:
    kind = message.DESCRIPTOR.fields_by_name[name]
    _assign_with(name, value, lambda given: setattr(message, name, given), _KINDS[kind.cpp_type])


def _assign_with(name: str, value: Any, assign: Callable[[Any], object], right: str) -> None:
    """Lets protobuf judge, and says it in our words."""
    try:
        assign(value)
    except (TypeError, ValueError, AttributeError):
        raise InvalidRequest(f"{name} is {_shown(value)}; it must be {right}") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is {_shown(value)}; it must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} is not valid Unicode at character {error.start}: it has half a pair") from None
    return value


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence)


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
