"""One router speaks at a time, by nobody's clock but its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from contracts.clock import VirtualClock
from router.journal.holder import is_surely_dead, new_holder
from router.journal.journal import Journal, Lease, LeaseLost, StoreLost
from router.journal.leadership import Leadership
from router.journal.memory import MemoryJournal

T = TypeVar("T")
LEASE_S = 1.0


class Cuttable(MemoryJournal):
    """What one router sees of the store of all: it may be cut off from it."""

    def __init__(self, store: Journal) -> None:
        self._store, self.is_cut = store, False

    async def lease(self) -> Lease | None:
        return await self._reach(self._store.lease)

    async def take(self, seen: Lease | None, holder: str) -> Lease | None:
        return await self._reach(lambda: self._store.take(seen, holder))

    async def renew(self, owner: str) -> Lease | None:
        return await self._reach(lambda: self._store.renew(owner))

    async def release(self, owner: str) -> None:
        await self._reach(lambda: self._store.release(owner))

    async def _reach(self, ask: Callable[[], Awaitable[T]]) -> T:
        if self.is_cut:
            raise StoreLost("cut off")
        return await ask()


class Scene:
    """A store, and routers that each have a clock of their own."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryJournal(self.clock, keep_s=1.0)
        self._tasks: list[asyncio.Task[None]] = []

    def router(self, name: str, **settings: Any) -> tuple[Leadership, Cuttable]:
        journal = Cuttable(self.store)
        return Leadership(journal, lease_s=LEASE_S, now_s=self.clock.now_s, holder=name, **settings), journal

    def hold(self, leadership: Leadership) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(leadership.hold()))
        return self._tasks[-1]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def play(act: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    scene = Scene()

    async def run() -> None:
        try:
            await act(scene)
        finally:
            await scene.end()

    scene.clock.run(run())


def test_whoever_stands_by_takes_over_when_the_leader_has_been_silent_for_a_lease() -> None:
    async def act(scene: Scene) -> None:
        first, _ = scene.router("first")
        second, _ = scene.router("second")
        assert await first.attempt()
        holding = scene.hold(first)
        standing_by = asyncio.create_task(second.stand_by())
        await scene.clock.sleep(5.0)
        assert num_sure(first) == 1
        assert num_sure(second) == 0
        with pytest.raises(LeaseLost, match="stands by"):
            await second.speak()
        holding.cancel()  # it is silent from here on, and does not know it
        silent_s = scene.clock.now_s()
        while not second.leads:
            assert num_sure(first, second) <= 1
            await scene.clock.sleep(0.01)
        assert num_sure(first) == 0
        assert scene.clock.now_s() - silent_s <= 2.0 * LEASE_S
        await standing_by
        scene.hold(first)
        with pytest.raises(LeaseLost, match="another router has taken over"):
            await first.speak()
        assert first.lost.is_set()
        with pytest.raises(LeaseLost):
            await scene.store.append(first_owner(first), [])

    play(act)


def num_sure(*routers: Leadership) -> int:
    return sum(router.is_sure for router in routers)


def first_owner(leadership: Leadership) -> str:
    return leadership._owner or ""


def test_the_speaking_times_of_two_routers_never_overlap() -> None:
    """Whenever the first one falls asleep, and however long: at no moment are both sure."""

    async def act(scene: Scene) -> None:
        for asleep_after_s in (0.013 * step for step in range(80)):
            scene.store = MemoryJournal(scene.clock, keep_s=1.0)
            first, _ = scene.router("first")
            second, _ = scene.router("second")
            assert await first.attempt()
            holding = scene.hold(first)
            standing_by = asyncio.create_task(second.stand_by())
            await scene.clock.sleep(asleep_after_s)
            holding.cancel()
            for _ in range(300):
                assert num_sure(first, second) <= 1
                await scene.clock.sleep(0.007)
            assert second.leads
            await standing_by

    play(act)


def test_a_leader_that_ends_hands_over_at_once() -> None:
    async def act(scene: Scene) -> None:
        first, _ = scene.router("first")
        second, _ = scene.router("second")
        assert await first.attempt()
        assert not await second.attempt()
        await first.resign()
        assert not first.leads
        assert await second.attempt()

    play(act)


def test_without_a_store_a_leader_goes_on_or_stops_as_it_is_told() -> None:
    async def act(scene: Scene) -> None:
        for goes_on in (True, False):
            scene.store = MemoryJournal(scene.clock, keep_s=1.0)
            leader, journal = scene.router("leader", continues_when_cut_off=goes_on)
            assert await leader.attempt()
            scene.hold(leader)
            journal.is_cut = True
            await scene.clock.sleep(3.0 * LEASE_S)
            assert leader.is_sure == goes_on
            speaking = asyncio.create_task(leader.speak())
            await scene.clock.sleep(LEASE_S)
            assert speaking.done() == goes_on
            journal.is_cut = False
            await speaking
            assert leader.is_sure

    play(act)


def test_a_store_that_forgot_the_lease_gives_it_to_its_holder_again() -> None:
    async def act(scene: Scene) -> None:
        leader, journal = scene.router("leader")
        assert await leader.attempt()
        scene.hold(leader)
        journal._store = MemoryJournal(scene.clock, keep_s=1.0)
        await scene.clock.sleep(LEASE_S)
        assert leader.is_sure
        assert await journal.lease() is not None

    play(act)


def test_a_holder_that_is_dead_for_certain_is_not_waited_for() -> None:
    here = new_holder()
    assert not is_surely_dead(f"1:{here}")
    code = "from router.journal.holder import new_holder; print(new_holder())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert is_surely_dead(f"1:{other}")
    machine, space, _, started, nonce = here.split("/")
    assert is_surely_dead(f"1:{machine}/{space}/{os.getpid()}/{int(started) - 1}/{nonce}")  # its number was given again
    assert not is_surely_dead(f"1:another/{space}/1/{started}/{nonce}")
    assert not is_surely_dead("1:someone")
    assert not is_surely_dead("")
