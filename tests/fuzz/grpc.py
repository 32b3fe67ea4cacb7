"""Fuzzes the gRPC face to clients and operators: `python -m tests.fuzz.grpc --minutes 10`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from specfleet.v1 import admin_pb2, types_pb2
from specfleet.v1 import inference_pb2 as pb
from tests.fuzz.messages import broken, message_of, spoilt
from tests.fuzz.runner import main
from tests.fuzz.target import DEADLINE_S, Target

__all__ = ["attempt", "grammar"]

_GOOD = [
    pb.GenerateRequest(prompt="the cat sat", stop=pb.Stop(max_tokens=4, ignore_eos=True)),
    pb.GenerateRequest(
        token_ids=types_pb2.TokenIds(ids=[20, 21, 22]),
        sampling=types_pb2.Sampling(temperature=0.8, seed=3, num_logprobs=2),
        stop=pb.Stop(max_tokens=3, strings=["x"]),
        num_choices=2,
        speculation=pb.Speculation(mode="MODE_FLEET", max_draft=4),
    ),
    pb.GenerateRequest(
        request_id="again",
        chat=pb.Chat(messages=[pb.Chat.Message(role="user", content="hello")]),
        stop=pb.Stop(max_tokens=3),
        json_schema='{"type": "integer"}',
    ),
]
_GENERATE = st.one_of(message_of(pb.GenerateRequest.DESCRIPTOR), *(spoilt(good) for good in _GOOD))
_STREAMS = {
    "Inference/Generate": _GENERATE,
    "Inference/Resume": st.one_of(
        message_of(pb.ResumeRequest.DESCRIPTOR), spoilt(pb.ResumeRequest(request_id="again", next_index=[0]))
    ),
}
# Draining is left out: it does what it is asked for.
_CALLS = {
    "Inference/Cancel": st.one_of(
        message_of(pb.CancelRequest.DESCRIPTOR), spoilt(pb.CancelRequest(request_id="again"))
    ),
    "Inference/CountTokens": st.one_of(
        message_of(pb.CountTokensRequest.DESCRIPTOR), spoilt(pb.CountTokensRequest(prompt="a"))
    ),
    "Inference/ListModels": message_of(pb.ListModelsRequest.DESCRIPTOR),
    "Admin/Status": message_of(admin_pb2.StatusRequest.DESCRIPTOR),
    "Admin/Drafters": message_of(admin_pb2.DraftersRequest.DESCRIPTOR),
    "Admin/Metrics": message_of(admin_pb2.MetricsRequest.DESCRIPTOR),
}
_Said = tuple[str, bytes, float, int]


def grammar() -> SearchStrategy[object]:
    """Some calls at a time: method, message, deadline, and after how many answers the client hangs up (0: never)."""
    weighted = ["Inference/Generate"] * 4 + [*_STREAMS, *_CALLS]
    return st.lists(st.sampled_from(weighted).flatmap(_said), min_size=1, max_size=4)


def _said(method: str) -> SearchStrategy[_Said]:
    messages = (_STREAMS | _CALLS)[method]
    content = st.one_of(messages.map(lambda message: message.SerializeToString()), broken(messages))
    return st.tuples(st.just(method), content, st.sampled_from([0.02, 0.3, 1.0]), st.sampled_from([0, 0, 0, 1, 2]))


async def attempt(target: Target, example: object) -> None:
    assert isinstance(example, list)
    await asyncio.wait_for(asyncio.gather(*(_call(target, *said) for said in example)), DEADLINE_S)


async def _call(target: Target, method: str, content: bytes, deadline_s: float, num_answers: int) -> None:
    channel: Any = target.fleet.channel
    path = f"/specfleet.v1.{method}"
    try:
        if method in _CALLS:
            await channel.unary_unary(path)(content, timeout=deadline_s)
        else:
            await _listen(channel.unary_stream(path)(content, timeout=deadline_s), num_answers)
        target.heard["OK"] += 1
    except grpc.aio.AioRpcError as error:
        target.hears(error, (method, content))


async def _listen(call: AsyncIterator[bytes], num_answers: int) -> None:
    number = 0
    async for _ in call:
        number += 1
        if number == num_answers:
            call.cancel()  # type: ignore[attr-defined]
            return


if __name__ == "__main__":
    main("grpc", grammar, attempt)
