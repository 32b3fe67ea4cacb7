"""What clients can do to a request besides reading it: resume, repeat, cancel, vanish, run out of time; bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contracts.config import DrafterConfig
from router.front import FrontLimits
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import types_pb2
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import RunningFleet, engine_of, kept, running_fleet

Scene = Callable[[RunningFleet], Coroutine[None, None, None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("requests") / "tiny", "llama")


def with_a_twin(folder: Path, limits: FrontLimits | None = None) -> AbstractAsyncContextManager[RunningFleet]:
    return running_fleet(
        engine_of(folder), {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}, limits=limits
    )


def play(folder: Path, scene: Scene, limits: FrontLimits | None = None) -> None:
    async def run() -> None:
        async with with_a_twin(folder, limits) as fleet:
            await scene(fleet)

    asyncio.run(run())


@pytest.fixture(scope="module")
def play_on(folder: Path) -> Iterator[Callable[[Scene], None]]:
    """Plays scenes to one fleet, one after another: none of them may leave it worse."""
    with kept(with_a_twin(folder)) as (runner, fleet):
        yield lambda scene: runner.run(scene(fleet))


def request(name: str, **fields: object) -> pb.GenerateRequest:
    stop = pb.Stop(max_tokens=40, ignore_eos=True)
    asked = pb.GenerateRequest(request_id=name, prompt="the cat", stop=stop, sampling=types_pb2.Sampling(seed=1))
    asked.MergeFrom(pb.GenerateRequest(**fields))  # type: ignore[arg-type]
    return asked


async def tokens_of(call: Any) -> list[int]:
    return [
        token.token_id async for response in call if response.HasField("tokens") for token in response.tokens.tokens
    ]


def test_a_lost_stream_is_resumed_and_a_repeated_call_is_the_same_request(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        whole = await tokens_of(fleet.stub.Generate(request("whole")))
        call = fleet.stub.Generate(request("lost"))
        got: list[int] = []
        async for response in call:
            if response.HasField("tokens"):
                got += [token.token_id for token in response.tokens.tokens]
            if len(got) >= 5:
                break
        call.cancel()
        got += await tokens_of(fleet.stub.Resume(pb.ResumeRequest(request_id="lost", next_index=[len(got)])))
        assert got == whole
        assert await tokens_of(fleet.stub.Generate(request("lost"))) == whole  # replayed, not run again
        assert fleet.router.front.num_requests == 2
        for wrong in (pb.ResumeRequest(request_id="never"), pb.ResumeRequest(request_id="lost", next_index=[0, 0])):
            with pytest.raises(grpc.aio.AioRpcError):
                await tokens_of(fleet.stub.Resume(wrong))

    play(folder, scene)


def test_cancel_deadline_and_vanishing_free_everything(folder: Path) -> None:
    long = pb.Stop(max_tokens=400, ignore_eos=True)

    async def scene(fleet: RunningFleet) -> None:
        call = aiter(fleet.stub.Generate(request("cancelled", stop=long)))
        await anext(call)
        assert (await fleet.stub.Cancel(pb.CancelRequest(request_id="cancelled"))).was_running
        last = [response async for response in call][-1]
        assert last.finished.reason == pb.FINISH_REASON_CANCELLED
        assert not (await fleet.stub.Cancel(pb.CancelRequest(request_id="cancelled"))).was_running
        try:  # both ends keep the time, and either may be the first to notice
            said = [response async for response in fleet.stub.Generate(request("late", stop=long), timeout=0.05)]
        except grpc.aio.AioRpcError as late:
            assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017  # the call may also end well
        else:
            assert said[-1].finished.reason == pb.FINISH_REASON_DEADLINE
        for index in range(10):
            vanishing = fleet.stub.Generate(request(f"gone{index}", stop=long))
            await vanishing.read()
            vanishing.cancel()
        async with asyncio.timeout(30):
            while fleet.router.scheduler.running or fleet.router.scheduler.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        verifier = fleet.router.scheduler.verifier
        assert verifier is not None
        assert verifier.num_reserved_blocks == 0

    play(folder, scene, FrontLimits(grace_s=0.05))


def test_overload_is_refused_at_once_with_a_hint(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        fleet.router.scheduler.max_running = 1
        calls = [fleet.stub.Generate(request(f"r{index}")) for index in range(8)]
        results = await asyncio.gather(*(tokens_of(call) for call in calls), return_exceptions=True)
        refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert refused
        assert len({tuple(result) for result in results if isinstance(result, list)}) == 1
        for error in refused:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
            assert status is not None
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in status.details)
            assert retry.retry_delay.ToMilliseconds() == 1000

    play(folder, scene, FrontLimits(max_waiting=2))


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"model": "other"}, "NOT_FOUND", "this fleet serves"),
        ({"stop": pb.Stop(max_tokens=0)}, "INVALID_ARGUMENT", "max_tokens is 0"),
        ({"token_ids": types_pb2.TokenIds()}, "INVALID_ARGUMENT", "empty"),
        ({"token_ids": types_pb2.TokenIds(ids=[2**31])}, "INVALID_ARGUMENT", "ids are 0 to"),
        ({"prompt": "x" * 200_000}, "INVALID_ARGUMENT", "shorten the prompt"),
        ({"sampling": types_pb2.Sampling(temperature=-1)}, "INVALID_ARGUMENT", "temperature is -1"),
        ({"sampling": types_pb2.Sampling(temperature=float("nan"))}, "INVALID_ARGUMENT", "temperature is nan"),
        ({"sampling": types_pb2.Sampling(num_logprobs=1000)}, "INVALID_ARGUMENT", "num_logprobs is 1000"),
        ({"num_choices": 99}, "INVALID_ARGUMENT", "num_choices is 99"),
        ({"speculation": pb.Speculation(max_draft=1000)}, "INVALID_ARGUMENT", "max_draft is 1000"),
        ({"speculation": pb.Speculation(drafters=["nobody"])}, "NOT_FOUND", "nobody"),
        ({"speculation": pb.Speculation(mode=77)}, "INVALID_ARGUMENT", "mode is 77"),  # type: ignore[arg-type]
        ({"json_schema": "{"}, "INVALID_ARGUMENT", "json_schema"),
        ({"chat": pb.Chat(messages=[pb.Chat.Message(role="king", content="hi")])}, "INVALID_ARGUMENT", "role"),
    ],
)
def test_bad_requests_are_named_and_the_fleet_goes_on(
    play_on: Callable[[Scene], None], fields: dict[str, object], code: str, words: str
) -> None:
    async def scene(fleet: RunningFleet) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tokens_of(fleet.stub.Generate(request("bad", **fields)))
        assert refused.value.code().name == code
        assert words in (refused.value.details() or "")
        assert (await fleet.say("still here", max_tokens=2)).tokens

    play_on(scene)
