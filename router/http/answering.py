"""From what a choice says to the objects of OpenAI's API, whole or in pieces."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate, islice
from typing import Any

from google.protobuf import json_format

from contracts.errors import Internal, SpecfleetError
from contracts.types import TokenLogprob
from engine.text.tokenizer import Tokenizer
from router.answer import AnsweredToken, Ended, Reason
from router.front import Front, Request
from router.http.errors import error_body
from router.merging import merged
from router.statistics import request_statistics

__all__ = ["ChatForm", "CompletionForm", "Form", "end", "stream", "whole"]

_FINISH = {Reason.STOP: "stop", Reason.LENGTH: "length", Reason.CANCELLED: "stop", Reason.DEADLINE: "length"}


class Form(ABC):
    """How one kind of completion spells its parts."""

    object: str
    chunk: str
    prefix: str

    def __init__(self, tokenizer: Tokenizer, *, num_logprobs: int | None) -> None:
        self._tokenizer, self._num_logprobs = tokenizer, num_logprobs

    def first(self) -> list[dict[str, Any]]:
        """What comes before any text of a choice."""
        return []

    @abstractmethod
    def piece(self, text: str) -> dict[str, Any]:
        """A part of a stream."""

    @abstractmethod
    def message(self, text: str) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[AnsweredToken], offset: int) -> dict[str, Any] | None:
        """What was asked for of these tokens, the text before which has `offset` characters; None where nothing was."""

    def spell(self, token: int) -> str:
        """One token by itself, with the space that it begins with: a text of it alone would begin without."""
        return self._tokenizer.token_bytes.of(token).decode("utf-8", "replace")


class CompletionForm(Form):
    object = chunk = "text_completion"
    prefix = "cmpl"

    def piece(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def logprobs(self, tokens: Sequence[AnsweredToken], offset: int) -> dict[str, Any] | None:
        if self._num_logprobs is None:
            return None
        known = [token.logprob for token in tokens if token.logprob is not None]
        offsets = accumulate((len(token.text) for token in tokens), initial=offset)
        return {
            "tokens": [self.spell(each.token) for each in known],
            "token_logprobs": [each.logprob for each in known],
            "top_logprobs": [self._top(each) for each in known],
            "text_offset": list(islice(offsets, len(known))),
        }

    def _top(self, logprob: TokenLogprob) -> dict[str, float]:
        """The likeliest first; of several that are spelled alike, as pieces of characters are, it alone."""
        top: dict[str, float] = {}
        for token, value in logprob.top[: self._num_logprobs]:
            top.setdefault(self.spell(token), value)
        return top


class ChatForm(Form):
    object, chunk = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def first(self) -> list[dict[str, Any]]:
        return [{"delta": {"role": "assistant", "content": ""}}]

    def piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}}

    def message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, tokens: Sequence[AnsweredToken], offset: int) -> dict[str, Any] | None:
        if self._num_logprobs is None:
            return None
        return {"content": [self._logprob(token.logprob) for token in tokens if token.logprob is not None]}

    def _logprob(self, logprob: TokenLogprob) -> dict[str, Any]:
        top = [self._spelled(token, value) for token, value in logprob.top[: self._num_logprobs]]
        return {**self._spelled(logprob.token, logprob.logprob), "top_logprobs": top}

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        """Its bytes too: one token may hold only a part of a character."""
        return {
            "token": self.spell(token),
            "logprob": logprob,
            "bytes": list(self._tokenizer.token_bytes.of(token)),
        }


# Several requests are one completion with several prompts: the choices of the first come first.


async def whole(front: Front, requests: Sequence[Request], form: Form) -> dict[str, Any]:
    """The answer once all choices have ended. Whoever gives up waiting ends the requests: it cannot come back."""
    choices = []
    try:
        # All at once: a request that nobody reads for a while is given up.
        async for _ in merged([front.read(request, number) for request, number in _choices(requests)]):
            pass
        for index, (request, number) in enumerate(_choices(requests)):
            answer = request.choices[number].answer
            ended = _ended(answer.ended)
            text = "".join(token.text for token in answer.tokens) + ended.text
            choices.append(
                {
                    "index": index,
                    **form.message(text),
                    "logprobs": form.logprobs(answer.tokens, 0),
                    "finish_reason": _FINISH[ended.reason],
                }
            )
    finally:
        end(front, requests)
    head = _head(requests[0], form, form.object)
    return {**head, "choices": choices, "usage": _usage(requests), **_statistics(requests)}


async def stream(front: Front, requests: Sequence[Request], form: Form, *, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events. A client that goes away ends the requests: it could not come back for the rest."""
    head = _head(requests[0], form, form.chunk)
    choices = [
        _pieces(front, request, form, number, index) for index, (request, number) in enumerate(_choices(requests))
    ]
    try:
        async for piece in merged(choices) if len(choices) > 1 else choices[0]:
            more = _statistics(requests) if piece["finish_reason"] is not None else {}
            yield _event({**head, "choices": [piece], **more})
        if include_usage:
            yield _event({**head, "choices": [], "usage": _usage(requests)})
        yield "data: [DONE]\n\n"
    except SpecfleetError as error:
        yield _event(error_body(error))
    finally:
        end(front, requests)


def end(front: Front, requests: Sequence[Request]) -> None:
    """What still runs of them is wanted by nobody any more."""
    for request in requests:
        front.cancel(request)


def _choices(requests: Sequence[Request]) -> list[tuple[Request, int]]:
    return [(request, number) for request in requests for number in range(len(request.choices))]


async def _pieces(front: Front, request: Request, form: Form, number: int, index: int) -> AsyncIterator[dict[str, Any]]:
    """One choice as a stream tells it; the last piece has the reason why it ended."""
    for part in form.first():
        yield {"index": index, **part, "logprobs": None, "finish_reason": None}
    offset = 0
    async for tokens in front.read(request, number):
        text = "".join(token.text for token in tokens)
        logprobs = form.logprobs(tokens, offset)
        offset += len(text)
        if text or logprobs is not None:
            yield {"index": index, **form.piece(text), "logprobs": logprobs, "finish_reason": None}
    last = _ended(request.choices[number].answer.ended)
    yield {"index": index, **form.piece(last.text), "logprobs": None, "finish_reason": _FINISH[last.reason]}


def _head(request: Request, form: Form, name: str) -> dict[str, Any]:
    return {
        "id": f"{form.prefix}-{request.id}",
        "object": name,
        "created": int(time.time()),
        "model": request.model,
        "system_fingerprint": None,
    }


def _usage(requests: Sequence[Request]) -> dict[str, Any]:
    """A prompt counts once for all its choices, and so does what the cache had of it: as the first of them found it."""
    num_prompt = sum(request.num_prompt_tokens for request in requests)
    num_completion = sum(len(choice.answer.tokens) for request in requests for choice in request.choices)
    num_cached = sum(request.choices[0].sequence.num_cached or 0 for request in requests)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }


def _statistics(requests: Sequence[Request]) -> dict[str, Any]:
    """Beyond OpenAI's: what speculation did for each choice."""
    return {
        "speculation": [
            {
                **json_format.MessageToDict(request_statistics(request, choice), preserving_proto_field_name=True),
                "mode": request.mode.partition("-")[0],
            }
            for request in requests
            for choice in request.choices
        ]
    }


def _ended(ended: Ended | None) -> Ended:
    assert ended is not None, "a read ends when the choice has"
    if ended.reason is Reason.ERROR:
        raise Internal(ended.error)
    return ended


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
