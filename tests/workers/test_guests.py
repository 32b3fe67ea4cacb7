"""Workers in another's process: they come and go by themselves, and end with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from contracts.config import DrafterConfig, FleetConfig
from contracts.errors import CheckpointError
from specfleet.v1 import fleet_pb2
from tests.workers.echo import Echo, Faulty, echoed
from tests.workers.router_side import Peer, Refusal, RouterSide
from workers.inbox import Inbox
from workers.link import Arrival
from workers.process import Guest, Worker, serve_with_guests
from workers.verifier.guests import hosted_guests

DRAIN = fleet_pb2.ToWorker(drain=fleet_pb2.Drain())


class Leaving(Echo):
    """Goes when it hears anything."""

    def run(self, inbox: Inbox[Arrival]) -> None:
        inbox.take()


def begin(router: RouterSide, stop: asyncio.Event, *guests: Worker) -> asyncio.Task[None]:
    staying = [Guest(worker=guest, tls=None) for guest in guests]
    return asyncio.create_task(serve_with_guests(Echo("host"), staying, router=router.address, stop=stop))


async def peers_of(router: RouterSide, count: int) -> dict[str, Peer]:
    peers = [await router.joined() for _ in range(count)]
    return {peer.hello.drafter_hello.name: peer for peer in peers}


def test_all_serve_and_end_together() -> None:
    async def run() -> None:
        async with RouterSide() as router:
            serving = begin(router, stop := asyncio.Event(), Echo("a"), Echo("b"))
            peers = await peers_of(router, 3)
            for name in ("a", "host", "b"):
                assert await echoed(peers[name], 7) == [7]
            stop.set()
            await asyncio.wait_for(serving, 60)
            for peer in peers.values():
                await asyncio.wait_for(peer.is_over.wait(), 60)

    asyncio.run(run())


def test_a_guest_that_leaves_is_missed_by_nobody() -> None:
    async def run() -> None:
        async with RouterSide() as router:
            serving = begin(router, stop := asyncio.Event(), Leaving("a"))
            peers = await peers_of(router, 2)
            await peers["a"].send(DRAIN)
            await asyncio.wait_for(peers["a"].is_over.wait(), 60)
            assert await echoed(peers["host"], 7) == [7]
            stop.set()
            await asyncio.wait_for(serving, 60)

    asyncio.run(run())


def test_a_guest_that_is_refused_is_missed_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def judge(hello: fleet_pb2.FromWorker) -> Refusal | None:
        is_liked = hello.drafter_hello.name != "a"
        return None if is_liked else (grpc.StatusCode.FAILED_PRECONDITION, "it has another tokenizer")

    async def run() -> None:
        async with RouterSide(judge=judge) as router:
            serving = begin(router, stop := asyncio.Event(), Echo("a"), Echo("b"))
            peers = await peers_of(router, 2)
            for name in ("host", "b"):
                assert await echoed(peers[name], 7) == [7]
            while not caplog.records:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.wait_for(serving, 60)

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "a is refused, and stays so" in caplog.text
    assert "it has another tokenizer" in caplog.text


def test_a_guest_whose_name_is_taken_waits_until_its_predecessor_is_given_up() -> None:
    answers: Iterator[Refusal | None] = iter([(grpc.StatusCode.ALREADY_EXISTS, "the name a is taken"), None])

    def judge(hello: fleet_pb2.FromWorker) -> Refusal | None:
        return next(answers) if hello.drafter_hello.name == "a" else None

    async def run() -> None:
        async with RouterSide(judge=judge) as router:
            serving = begin(router, stop := asyncio.Event(), Echo("a"))
            peers = await peers_of(router, 2)
            assert await echoed(peers["a"], 7) == [7]
            stop.set()
            await asyncio.wait_for(serving, 60)

    asyncio.run(run())


def test_a_guest_that_fails_ends_all_with_its_error() -> None:
    async def run() -> None:
        async with RouterSide() as router:
            serving = begin(router, asyncio.Event(), Faulty("a"))
            peers = await peers_of(router, 2)
            await peers["a"].send(DRAIN)
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(serving, 60)
            await asyncio.wait_for(peers["host"].is_over.wait(), 60)

    asyncio.run(run())


def test_a_drafter_that_cannot_be_loaded_is_missed_by_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is the matter with it."""

    @contextmanager
    def hosted(name: str, config: DrafterConfig) -> Iterator[Worker]:
        match name:
            case "nowhere":
                raise CheckpointError("there is no such folder")
            case "large":
                raise OSError("Cannot allocate memory")
            case _:
                yield Echo(name)

    monkeypatch.setattr("workers.verifier.guests.hosted", hosted)
    guest = {"kind": "model", "with_target": True, "engine": {"model": "m"}}
    drafters = {"nowhere": guest, "far": {"kind": "recycling"}, "large": guest, "near": guest}
    config = FleetConfig.model_validate({"engine": {"model": "target"}, "drafters": drafters})
    with ExitStack() as stack:
        assert [guest.worker.name for guest in hosted_guests(config, stack)] == ["near"]
    assert "nowhere is not served: there is no such folder" in caplog.text
    assert "large is not served" in caplog.text
    assert "Cannot allocate memory" in caplog.text
