"""From what an HTTP request says to what the front door takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from contracts.errors import InvalidArgument, shown
from contracts.sampling import MAX_NEW_TOKENS
from contracts.types import SamplingParams, StopParams
from router.front import Asked, Speculation
from router.http.schemas import ChatRequest, CompletionRequest, GenerationSettings, ResponseFormat
from router.security.caller import caller

__all__ = ["chat_asked", "completions_asked"]

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


def completions_asked(request: CompletionRequest) -> list[Asked]:
    """A plain completion of each of its prompts."""
    return [
        _asked(
            request,
            prompt,
            max_tokens=_DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            num_logprobs=_num_logprobs(request.logprobs),
            json_schema="",
        )
        for prompt in _prompts(request.prompt)
    ]


def _prompts(given: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]) -> list[str | list[int]]:
    """One text, or the tokens of one, or several of either."""
    if isinstance(given, str):
        return [given]
    tokens = [each for each in given if isinstance(each, int)]
    return [tokens] if tokens or not given else [_one(each) for each in given if not isinstance(each, int)]


def _one(given: str | Sequence[int]) -> str | list[int]:
    return given if isinstance(given, str) else list(given)


def chat_asked(request: ChatRequest) -> Asked:
    """A chat completion. Without a limit the answer may fill the context."""
    messages: list[Mapping[str, str]] = []
    for message in request.messages:
        content = message.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        messages.append({"role": message.role, "content": text})
    num_logprobs = _num_logprobs(request.top_logprobs or 0) if request.logprobs else 0
    if request.top_logprobs and not request.logprobs:
        raise InvalidArgument(f"top_logprobs is {request.top_logprobs} and logprobs is not true; set it too")
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return _asked(
        request,
        messages,
        max_tokens=max_tokens,
        num_logprobs=num_logprobs,
        json_schema="" if request.response_format is None else _schema(request.response_format),
    )


def _asked(
    request: GenerationSettings,
    prompt: str | Sequence[int] | Sequence[Mapping[str, str]],
    *,
    max_tokens: int | None,
    num_logprobs: int,
    json_schema: str,
) -> Asked:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Asked(
        prompt=prompt,
        sampling=SamplingParams(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_k=request.top_k or 0,
            top_p=1.0 if request.top_p is None else request.top_p,
            min_p=request.min_p or 0.0,
            repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias={_token(key): bias for key, bias in (request.logit_bias or {}).items()},
            num_logprobs=num_logprobs,
        ),
        stop=StopParams(
            max_tokens=MAX_NEW_TOKENS if max_tokens is None else max_tokens,
            stop=tuple(stop),
            stop_token_ids=tuple(request.stop_token_ids or ()),
            ignore_eos=request.ignore_eos,
        ),
        fills_context=max_tokens is None,
        seed=request.seed,
        model=request.model,
        num_choices=1 if request.n is None else request.n,
        speculation=Speculation(
            mode=request.speculation.mode,
            max_draft=request.speculation.max_draft,
            drafters=tuple(request.speculation.drafters),
        ),
        priority=request.priority,
        tenant=caller().tenant,
        json_schema=json_schema,
    )


def _num_logprobs(num_top: int | None) -> int:
    """Asked for none beside the chosen one's own, the target is asked for one; it is left out of the answer."""
    return 0 if num_top is None else max(num_top, 1)


def _token(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 10):
        raise InvalidArgument(f"logit_bias names token {shown(key)}; a key is a token id")
    return int(key)


def _schema(form: ResponseFormat) -> str:
    match form.type:
        case "text":
            return ""
        case "json_object":
            return '{"type": "object"}'
        case "json_schema":
            if form.json_schema is None:
                raise InvalidArgument("response_format is json_schema without a json_schema; give one with a schema")
            return json.dumps(form.json_schema.schema_)
