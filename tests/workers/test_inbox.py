"""From the event loop to a thread: in order, bounded, and nobody waits for ever."""

from __future__ import annotations

import asyncio

from workers.inbox import Inbox


def test_everything_arrives_in_order_whatever_the_bound() -> None:
    async def run(capacity: int) -> list[int]:
        inbox: Inbox[int] = Inbox(capacity=capacity)
        taken: list[int] = []

        def work() -> None:
            while len(taken) < 500:
                some = inbox.take(wait=len(taken) % 3 > 0)
                assert some is not None
                taken.extend(some)

        working = asyncio.get_running_loop().run_in_executor(None, work)
        for number in range(500):
            await inbox.put(number)
        await working
        return taken

    for capacity in (1, 2, 3, 64):
        assert asyncio.run(asyncio.wait_for(run(capacity), 30)) == list(range(500))


def test_putting_waits_while_the_thread_is_busy_and_the_loop_does_not() -> None:
    async def run() -> None:
        inbox: Inbox[int] = Inbox(capacity=4)
        putting = asyncio.create_task(put_all(inbox, 10))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not putting.done()
        taken: list[int] = []
        while len(taken) < 10:
            taken += await asyncio.to_thread(lambda: inbox.take() or [])
        await asyncio.wait_for(putting, 30)
        assert taken == list(range(10))

    asyncio.run(run())


def test_close_ends_all_waiting() -> None:
    async def run() -> None:
        inbox: Inbox[int] = Inbox(capacity=2)
        putting = asyncio.create_task(put_all(inbox, 10))
        await asyncio.sleep(0)
        inbox.close()
        await asyncio.wait_for(putting, 30)
        assert inbox.take() is None, "what was left in it is dropped"
        empty: Inbox[int] = Inbox()
        working = asyncio.get_running_loop().run_in_executor(None, empty.take)
        empty.close()
        assert await asyncio.wait_for(working, 30) is None

    asyncio.run(run())


def test_taking_without_waiting_may_bring_nothing() -> None:
    async def run() -> None:
        inbox: Inbox[int] = Inbox()
        assert inbox.take(wait=False) == []
        await inbox.put(1)
        assert inbox.take(wait=False) == [1]

    asyncio.run(run())


async def put_all(inbox: Inbox[int], count: int) -> None:
    for number in range(count):
        await inbox.put(number)
