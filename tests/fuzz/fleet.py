"""Fuzzes the face to drafters: `python -m tests.fuzz.fleet --minutes 10`. Texts that are generated meanwhile must be
the target's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from specfleet.v1 import fleet_pb2
from tests.fuzz.messages import broken, message_of, spoilt
from tests.fuzz.runner import main
from tests.fuzz.target import DEADLINE_S, Target

__all__ = ["attempt", "grammar"]

_JOIN = "/specfleet.v1.Fleet/Join"
_OWN = "Internal error from Core"  # what gRPC's client says when it wrote to a stream that the router had ended
_PROMPT, _NUM_TOKENS = "the cat sat on the mat", 6
_HELLO = fleet_pb2.DrafterHello(name="fuzzer", kind="x", capacity=8, step_s=0.001, max_context=512)
_SURE = st.one_of(st.floats(0.0, 1.0, width=32), st.sampled_from([float("nan"), -1.0, 2.0]))


def _likely_drafts(newest: int) -> SearchStrategy[fleet_pb2.Drafts]:
    """About sequences that may be there, with nodes that may be a tree."""
    number = st.integers(max(newest - 2, 0), newest + 3)
    nodes = st.lists(
        st.builds(fleet_pb2.DraftNode, token=st.integers(0, 320), parent=st.integers(-1, 3), confidence=_SURE),
        max_size=5,
    )
    draft = st.builds(
        fleet_pb2.Draft,
        sequence=number,
        epoch=st.sampled_from([0, 0, 0, 1]),
        position=st.integers(5, 16),
        below=st.lists(st.integers(0, 320), max_size=2),
        nodes=nodes,
        is_last=st.booleans(),
    )
    evidence = st.builds(
        fleet_pb2.Evidence,
        sequence=number,
        epoch=st.just(0),
        num_tokens=st.integers(0, 5),
        num_agreed=st.integers(0, 5),
    )
    step = st.builds(
        fleet_pb2.StepReport,
        num_rows=st.integers(0, 3),
        num_sequences=st.integers(0, 3),
        elapsed_s=st.sampled_from([0.0, 1e-3, 1e300, float("inf")]),
    )
    return st.builds(
        fleet_pb2.Drafts,
        drafts=st.lists(draft, max_size=4),
        evidence=st.lists(evidence, max_size=2),
        steps=st.lists(step, max_size=2),
    )


def grammar() -> SearchStrategy[object]:
    """Some streams at a time: a name, a hello, and messages; how far sequences have counted is put in when it is
    known."""
    return st.lists(st.tuples(st.integers(0, 10**6), _hellos(), st.lists(_talk(), max_size=6)), min_size=1, max_size=3)


def _hellos() -> SearchStrategy[bytes]:
    good = st.just(_HELLO).map(lambda hello: fleet_pb2.FromWorker(drafter_hello=hello))
    bad = spoilt(_HELLO).map(lambda hello: fleet_pb2.FromWorker(drafter_hello=hello))
    anything = message_of(fleet_pb2.FromWorker.DESCRIPTOR)
    return st.one_of(
        *[good.map(lambda message: message.SerializeToString())] * 3,
        bad.map(lambda message: message.SerializeToString()),
        anything.map(lambda message: message.SerializeToString()),
        broken(good),
    )


def _talk() -> SearchStrategy[bytes]:
    likely = _likely_drafts(0).map(lambda drafts: fleet_pb2.FromWorker(drafts=drafts))
    anything = message_of(fleet_pb2.FromWorker.DESCRIPTOR)
    return st.one_of(
        *[likely.map(lambda message: message.SerializeToString())] * 3,
        anything.map(lambda message: message.SerializeToString()),
        broken(likely),
    )


async def attempt(target: Target, example: object) -> None:
    assert isinstance(example, list)
    fleet = target.fleet
    plain = await fleet.say(_PROMPT, mode="off", max_tokens=_NUM_TOKENS)
    joined = [asyncio.create_task(_join(target, number, hello, talk)) for number, hello, talk in example]
    said = await asyncio.wait_for(fleet.say(_PROMPT, max_tokens=_NUM_TOKENS), DEADLINE_S)
    assert said.tokens == plain.tokens, (said, plain)
    await asyncio.wait_for(asyncio.gather(*joined), DEADLINE_S)


async def _join(target: Target, number: int, hello: bytes, talk: list[bytes]) -> None:
    """Under a name of its own, so that quarantine does not end the run; `hello` as it is where it cannot be read."""
    channel: Any = target.fleet.channel
    newest = max(
        (int(sequence) for sequence in target.fleet.router.scheduler.running if int(sequence) < 2**32), default=1
    )
    call = channel.stream_stream(_JOIN)(_messages(_renamed(hello, number), [_moved(each, newest) for each in talk]))
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
        target.heard["OK"] += 1
    except grpc.aio.AioRpcError as error:
        if error.details() != _OWN:
            target.hears(error, (hello, talk))
    finally:
        call.cancel()


async def _messages(hello: bytes, talk: list[bytes]) -> AsyncIterator[bytes]:
    yield hello
    for each in talk:
        await asyncio.sleep(0.002)
        yield each


def _renamed(hello: bytes, number: int) -> bytes:
    message = _read(hello)
    if message is None or message.drafter_hello.name != _HELLO.name:
        return hello
    message.drafter_hello.name = f"fuzzer-{number % 200}"
    return message.SerializeToString()


def _moved(content: bytes, newest: int) -> bytes:
    """Sequences are counted from the newest one."""
    message = _read(content)
    if message is None or not message.HasField("drafts"):
        return content
    about: list[Any] = [*message.drafts.drafts, *message.drafts.evidence]
    for each in about:
        with contextlib.suppress(ValueError):
            each.sequence = max(newest - 2, 0) + each.sequence
    return message.SerializeToString()


def _read(content: bytes) -> fleet_pb2.FromWorker | None:
    try:
        return fleet_pb2.FromWorker.FromString(content)
    except Exception:  # noqa: BLE001  # its kind depends on the runtime; what cannot be read is sent as it is
        return None


if __name__ == "__main__":
    main("fleet", grammar, attempt)
