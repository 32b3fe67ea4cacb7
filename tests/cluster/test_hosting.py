"""A node inside another process: how it is, and whether it is worth starting again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import grpc
import pytest

from cluster.hosting import Hosted, HostedState, Shared, drafter
from contracts.config import DrafterConfig
from contracts.errors import CheckpointError, RankLost, SpecfleetError
from specfleet.v1 import fleet_pb2
from tests.workers.router_side import Refusal, RouterSide
from workers.process import Worker

LOOKUP = partial(drafter, "lookup", DrafterConfig(kind="prompt_lookup"))
NOBODY = "127.0.0.1:1"


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.close()


def loading(may_load: threading.Event) -> Callable[[], AbstractContextManager[Worker]]:
    """A node that loads for so long."""

    @contextmanager
    def slow() -> Iterator[Worker]:
        may_load.wait(60)
        with LOOKUP() as node:
            yield node

    return slow


def next_state(hosted: Hosted, state: HostedState) -> HostedState:
    return hosted.state(after=state.version, timeout_s=60)


def until(hosted: Hosted, phase: str) -> None:
    state = hosted.state(after=-1, timeout_s=60)
    while state.phase != phase:
        assert state.phase in ("loading", "serving", "joined"), state
        state = next_state(hosted, state)


def test_a_router_that_is_lost_is_joined_again(shared: Shared) -> None:
    async def run() -> None:
        async with RouterSide() as router:
            hosted = Hosted(LOOKUP, shared=shared, router=router.address)
            await router.joined()
            await asyncio.to_thread(until, hosted, "joined")
            port = router.port
        await asyncio.to_thread(until, hosted, "serving")
        async with RouterSide(port=port) as router:
            await router.joined()
            await asyncio.to_thread(until, hosted, "joined")
            hosted.leave()
            await asyncio.to_thread(until, hosted, "left")

    asyncio.run(run())


def test_it_loads_serves_and_leaves_when_told(shared: Shared) -> None:
    async def run() -> None:
        async with RouterSide() as router:
            hosted = Hosted(LOOKUP, shared=shared, router=router.address)
            peer = await router.joined()
            assert peer.hello.drafter_hello.name == "lookup"
            await asyncio.to_thread(until, hosted, "joined")
            hosted.leave()
            await asyncio.to_thread(until, hosted, "left")
            hosted.leave()  # a second time does nothing
            await asyncio.wait_for(peer.is_over.wait(), 60)

    asyncio.run(run())


def test_one_that_is_told_to_leave_while_it_loads_goes_when_it_has(shared: Shared) -> None:
    may_load = threading.Event()
    slow = loading(may_load)

    hosted = Hosted(slow, shared=shared, router=NOBODY)
    hosted.leave()
    assert hosted.state(after=-1, timeout_s=60).phase == "loading"
    may_load.set()
    state = hosted.state(after=0, timeout_s=60)
    while state.phase == "serving":
        state = next_state(hosted, state)
    assert state.phase == "left"


def failing(error: Exception) -> Callable[[], AbstractContextManager[Worker]]:
    def make() -> AbstractContextManager[Worker]:
        raise error

    return make


@pytest.mark.parametrize(
    ("error", "phase", "reason"),
    [
        (CheckpointError("no weights here"), "refused", "no weights here"),
        (RankLost("rank 1 is lost", rank=1, waited_s=1.0), "failed", "rank 1 is lost"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_can_never_work_is_told_from_what_may_work_again(
    shared: Shared, error: Exception, phase: str, reason: str
) -> None:
    state = Hosted(failing(error), shared=shared, router=NOBODY).state(after=0, timeout_s=60)
    assert (state.phase, state.reason) == (phase, reason)
    assert state.to_plain() == {"version": 1, "phase": phase, "reason": reason}


@pytest.mark.parametrize(
    ("code", "phase"),
    [(grpc.StatusCode.INVALID_ARGUMENT, "refused"), (grpc.StatusCode.ALREADY_EXISTS, "failed")],
)
def test_a_name_that_is_taken_is_taken_by_a_predecessor_for_a_while(
    shared: Shared, code: grpc.StatusCode, phase: str
) -> None:
    def judge(hello: fleet_pb2.FromWorker) -> Refusal | None:
        return code, "not you"

    async def run() -> None:
        async with RouterSide(judge=judge) as router:
            hosted = Hosted(LOOKUP, shared=shared, router=router.address)
            state = await asyncio.to_thread(hosted.state, after=0, timeout_s=60)
            while state.phase in ("serving", "joined"):
                state = await asyncio.to_thread(next_state, hosted, state)
            assert (state.phase, state.reason) == (phase, f"the router at {router.address} refused lookup: not you")

    asyncio.run(run())


def test_asking_takes_no_longer_than_allowed(shared: Shared) -> None:
    may_load = threading.Event()

    def slow() -> AbstractContextManager[Worker]:
        may_load.wait(60)
        raise SpecfleetError("enough")

    hosted = Hosted(slow, shared=shared, router=NOBODY)
    assert hosted.state(after=0, timeout_s=0.01) == HostedState(version=0, phase="loading")
    may_load.set()
    assert hosted.state(after=0, timeout_s=60).phase == "failed"


def test_two_in_one_process_serve_and_leave_by_themselves(shared: Shared) -> None:
    """The second loads when the first has."""
    may_load = threading.Event()
    slow = loading(may_load)

    async def run() -> None:
        async with RouterSide() as router:
            first = Hosted(slow, shared=shared, router=router.address)
            make = partial(drafter, "other", DrafterConfig(kind="recycling"))
            second = Hosted(make, shared=shared, router=router.address, wait=first.wait_until_loaded)
            assert second.state(after=0, timeout_s=0.1).phase == "loading"
            may_load.set()
            peers = [await router.joined() for _ in range(2)]
            assert {peer.hello.drafter_hello.name for peer in peers} == {"lookup", "other"}
            for hosted in (first, second):
                await asyncio.to_thread(until, hosted, "joined")
            first.leave()
            assert first.is_over
            await asyncio.to_thread(until, first, "left")
            assert first.worker is None
            assert (second.state(after=-1, timeout_s=0).phase, second.is_over) == ("joined", False)
            second.leave()
            await asyncio.to_thread(until, second, "left")

    asyncio.run(run())
