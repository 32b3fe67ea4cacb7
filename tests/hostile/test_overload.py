"""Ten times more than there is room for: bounded, refused at once, and over as soon as it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contracts.config import DrafterConfig
from contracts.errors import Overloaded
from router.front import Asked, Front, FrontLimits, Request
from specfleet.v1 import inference_pb2 as pb
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import DEADLINE_S, RunningFleet, engine_of, running_fleet

MAX_RUNNING, MAX_WAITING = 2, 6
NUM_CLIENTS, NUM_EACH = 10 * (MAX_RUNNING + MAX_WAITING), 3
LIMITS = FrontLimits(max_waiting=MAX_WAITING, keep_s=60.0)


@dataclass
class Watched:
    """What the front door did, in the router's own order of events."""

    front: Front
    most_waiting: int = 0
    rounds_until_refused: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generate = self.front.generate
        self.front.generate = self.generate  # type: ignore[method-assign]

    async def generate(self, asked: Asked) -> Request:
        figures = self.front.scheduler.figures
        before = figures.num_rounds
        try:
            request = await self._generate(asked)
        except Overloaded:
            self.rounds_until_refused.append(figures.num_rounds - before)
            raise
        self.most_waiting = max(self.most_waiting, len(self.front.scheduler.waiting))
        return request


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("overload") / "tiny", "llama")


def play(folder: Path, scene: Callable[[RunningFleet], Awaitable[None]]) -> None:
    async def run() -> None:
        drafters = {"lookup": DrafterConfig(kind="prompt_lookup")}
        async with running_fleet(engine_of(folder), drafters, limits=LIMITS) as fleet:
            fleet.router.scheduler.max_running = MAX_RUNNING
            await scene(fleet)
            async with asyncio.timeout(DEADLINE_S):
                while fleet.router.scheduler.running or fleet.router.scheduler.waiting:  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.005)
            verifier = fleet.router.scheduler.verifier
            assert verifier is not None
            assert verifier.num_reserved_blocks == 0
            assert (await fleet.say("afterwards", max_tokens=4)).tokens

    asyncio.run(run())


async def tokens_of(fleet: RunningFleet, request: pb.GenerateRequest, deadline_s: float = DEADLINE_S) -> list[int]:
    tokens: list[int] = []
    async for response in fleet.stub.Generate(request, timeout=deadline_s):
        tokens += [token.token_id for token in response.tokens.tokens]
    return tokens


def a_request(max_tokens: int = 4, priority: int = 0, request_id: str = "") -> pb.GenerateRequest:
    stop = pb.Stop(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(prompt="the cat", stop=stop, priority=priority, request_id=request_id)


def retry_s(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it needs no more of a call than this has
    hint = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(hint) for detail in status.details)
    return float(hint.retry_delay.ToTimedelta().total_seconds())


def test_at_ten_times_what_there_is_room_for_the_rest_is_refused_before_anything_else_happens(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        watched = Watched(fleet.router.front)
        expected = await tokens_of(fleet, a_request())
        refused: list[grpc.aio.AioRpcError] = []
        answers: list[list[int]] = []

        async def client() -> None:
            for _ in range(NUM_EACH):
                try:
                    answers.append(await tokens_of(fleet, a_request()))
                except grpc.aio.AioRpcError as error:
                    refused.append(error)

        await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
        assert len(answers) + len(refused) == NUM_CLIENTS * NUM_EACH
        assert len(refused) > NUM_CLIENTS
        assert answers == [expected] * len(answers), "whoever is accepted gets the whole answer"
        assert {error.code().name for error in refused} == {"RESOURCE_EXHAUSTED"}
        assert all(retry_s(error) > 0.0 for error in refused)
        assert set(watched.rounds_until_refused) == {0}, "no refusal waited for a round"
        assert watched.most_waiting <= MAX_WAITING
        assert len(fleet.router.front.requests()) == len(answers) + 1, "of a refused request nothing stays"

    play(folder, scene)


def test_deadlines_are_kept_or_said_to_be_over_in_a_full_queue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(fleet: RunningFleet) -> None:
        long = [asyncio.create_task(tokens_of(fleet, a_request(200))) for _ in range(MAX_RUNNING)]
        async with asyncio.timeout(DEADLINE_S):
            while len(fleet.router.scheduler.running) < MAX_RUNNING:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        # As if the fleet did not know how long answers take: who comes in is told when it is too late.
        monkeypatch.setattr(fleet.router.scheduler, "answered_in_s", lambda num_before: 0.0)
        hasty = [tokens_of(fleet, a_request(200), deadline_s=0.05) for _ in range(MAX_WAITING)]
        late = await asyncio.gather(*hasty, return_exceptions=True)
        errors = [each for each in late if isinstance(each, grpc.aio.AioRpcError)]
        assert {error.code().name for error in errors} == {"DEADLINE_EXCEEDED"}
        # One that was let in before its deadline, since a long one was done, has an answer, whole or cut short by it.
        assert all(isinstance(each, list) for each in late if each not in errors)
        async with asyncio.timeout(DEADLINE_S):
            while fleet.router.scheduler.waiting:  # noqa: ASYNC110  # they leave the queue by themselves
                await asyncio.sleep(0.005)
        assert [len(tokens) for tokens in await asyncio.gather(*long)] == [200] * MAX_RUNNING

    play(folder, scene)


def test_what_cannot_be_ready_in_time_is_refused_and_what_can_or_is_urgent_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(fleet: RunningFleet) -> None:
        scheduler = fleet.router.scheduler
        scheduler.max_running = 1
        crowd = [asyncio.create_task(tokens_of(fleet, a_request(100))) for _ in range(3)]
        async with asyncio.timeout(DEADLINE_S):
            while len(scheduler.waiting) < 2:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        monkeypatch.setattr(scheduler, "answered_in_s", lambda num_before: 10.0 * (num_before + 1))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tokens_of(fleet, a_request(), deadline_s=20.0)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "with 2 sequences waiting" in (refused.value.details() or "")
        assert 24.0 <= retry_s(refused.value) <= 26.0, "half as long again as it takes on average"
        patient = tokens_of(fleet, a_request(), deadline_s=DEADLINE_S)
        urgent = tokens_of(fleet, a_request(priority=1), deadline_s=20.0)
        assert [len(tokens) for tokens in await asyncio.gather(patient, urgent)] == [4, 4]
        await asyncio.gather(*crowd)

    play(folder, scene)


def test_in_a_full_queue_the_urgent_goes_next(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        fleet.router.scheduler.max_running = 1
        crowd = [asyncio.create_task(tokens_of(fleet, a_request(12))) for _ in range(MAX_WAITING)]
        async with asyncio.timeout(DEADLINE_S):
            while len(fleet.router.scheduler.waiting) < MAX_WAITING - 1:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        await tokens_of(fleet, a_request(12, priority=5, request_id="urgent"))
        await asyncio.gather(*crowd)
        requests = fleet.router.front.requests()
        (urgent,) = [request for request in requests if request.id == "urgent"]
        ended_s = urgent.choices[0].ended_s
        before = [of for of in requests if of is not urgent and urgent.began_s < of.choices[0].ended_s < ended_s]
        assert len(before) <= 2, "the one that ran, and one that took its place while this one was accepted"

    play(folder, scene)
