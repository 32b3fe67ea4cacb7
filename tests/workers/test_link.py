"""The way to the router: kept up for ever, ended by a refusal, and never a place where a thread waits in vain."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading

import grpc
import pytest

from contracts.errors import InvalidArgument
from specfleet.v1 import fleet_pb2
from tests.workers.echo import Echo, Faulty, echoed
from tests.workers.router_side import Refusal, RouterSide, joined
from workers.inbox import Inbox
from workers.link import Arrival, Stream, delays_s
from workers.process import serve


class Slow(Echo):
    """Takes its time for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy, self.may_finish = threading.Event(), threading.Event()

    def run(self, inbox: Inbox[Arrival]) -> None:
        while (arrivals := inbox.take()) is not None:
            self.is_busy.set()
            assert self.may_finish.wait(60)
            for arrival in arrivals:
                arrival.stream.send(fleet_pb2.FromWorker(drafts=fleet_pb2.Drafts()))


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION])
def test_a_refusal_is_final_and_says_why(code: grpc.StatusCode) -> None:
    async def run() -> int:
        async with RouterSide(judge=lambda hello: (code, "the name echo is taken")) as router:
            with pytest.raises(InvalidArgument, match=r"at 127.0.0.1:\d+ refused echo: the name echo is taken"):
                await asyncio.wait_for(serve(Echo(), router=router.address, stop=asyncio.Event()), 60)
            return router.num_asked

    assert asyncio.run(run()) == 1


def test_what_is_no_refusal_is_tried_again() -> None:
    async def run() -> None:
        answers: list[Refusal | None] = [
            (grpc.StatusCode.UNAVAILABLE, "starting"),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
            None,
        ]
        async with RouterSide(judge=lambda hello: answers.pop(0)) as router:
            stop = asyncio.Event()
            serving = asyncio.create_task(serve(Echo(), router=router.address, stop=stop))
            peer = await router.joined()
            assert peer.hello == Echo().hello
            stop.set()
            await asyncio.wait_for(serving, 60)

    asyncio.run(run())


def test_a_lost_stream_is_dialled_again_and_begins_empty() -> None:
    async def run() -> None:
        stop = asyncio.Event()
        async with RouterSide() as first:
            serving = asyncio.create_task(serve(Echo(), router=first.address, stop=stop))
            peer = await first.joined()
            assert await echoed(peer, 1) == [1]
            assert await echoed(peer, 2) == [1, 2]
        async with RouterSide(port=first.port) as second:
            peer = await second.joined()
            assert peer.hello == Echo().hello
            assert await echoed(peer, 3) == [3]
            stop.set()
            await asyncio.wait_for(serving, 60)
            await asyncio.wait_for(peer.is_over.wait(), 60)

    asyncio.run(run())


def test_no_proxy_stands_before_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")

    async def run() -> None:
        async with joined(Echo()) as peer:
            assert await echoed(peer, 1) == [1]

    asyncio.run(run())


def test_stopping_needs_no_router() -> None:
    async def run() -> None:
        stop = asyncio.Event()
        async with RouterSide() as router:
            address = router.address
        serving = asyncio.create_task(serve(Echo(), router=address, stop=stop))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(serving, 60)

    asyncio.run(run())


def test_the_step_at_hand_is_finished_and_sent_before_leaving() -> None:
    async def run() -> None:
        async with RouterSide() as router:
            worker, stop = Slow(), asyncio.Event()
            serving = asyncio.create_task(serve(worker, router=router.address, stop=stop))
            peer = await router.joined()
            await peer.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork()))
            assert await asyncio.to_thread(worker.is_busy.wait, 60)
            stop.set()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not serving.done()
            worker.may_finish.set()
            assert (await peer.hear()).HasField("drafts")
            await asyncio.wait_for(serving, 60)
            await asyncio.wait_for(peer.is_over.wait(), 60)

    asyncio.run(run())


def test_a_worker_that_fails_ends_all_with_its_error() -> None:
    async def run() -> None:
        async with RouterSide() as router:
            serving = asyncio.create_task(serve(Faulty(), router=router.address, stop=asyncio.Event()))
            peer = await router.joined()
            await peer.send(fleet_pb2.ToWorker(drain=fleet_pb2.Drain()))
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(serving, 60)

    asyncio.run(run())


def test_large_messages_pass_both_ways() -> None:
    async def run() -> None:
        async with joined(Echo()) as peer:
            many = fleet_pb2.Opening(sequence=7, tokens=[2**31] * 6_000_000)  # 30 MB
            await peer.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(open=[many])))
            assert (await peer.hear()).drafts.drafts[0].sequence == 7
            numbers = [fleet_pb2.Opening(sequence=2**31 + n) for n in range(4000)]
            await peer.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(open=numbers)))
            answer = await peer.hear()
            assert answer.ByteSize() > 15 * 2**20
            assert len(answer.drafts.drafts) == 4001

    asyncio.run(run())


def test_sending_waits_for_room_until_the_stream_is_lost() -> None:
    async def run() -> None:
        stream = Stream(capacity=3)
        sent: list[int] = []

        def send_many() -> None:
            for number in range(10):
                stream.send(fleet_pb2.FromWorker())
                sent.append(number)

        thread = threading.Thread(target=send_many)
        thread.start()
        await asyncio.to_thread(thread.join, 0.2)
        assert thread.is_alive()
        assert sent == [0, 1, 2]
        stream.lose()
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()

    asyncio.run(run())


def test_delays_grow_to_a_bound_and_no_two_workers_keep_step() -> None:
    first, second = (list(itertools.islice(delays_s(random.Random(seed)), 12)) for seed in (1, 2))
    for index, delay_s in enumerate(first):
        whole_s = min(0.1 * 2**index, 5.0)
        assert whole_s / 2 <= delay_s <= whole_s
    assert first != second
