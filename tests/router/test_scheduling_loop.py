"""The loop goes on whatever a tick comes to."""

from __future__ import annotations

import asyncio

import pytest

from contracts.clock import VirtualClock
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop


def test_a_tick_that_fails_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    scheduler = Scheduler(clock)
    ticked_s: list[float] = []

    def tick() -> float | None:
        ticked_s.append(clock.now_s())
        if len(ticked_s) == 1:
            raise ZeroDivisionError
        return None

    async def act() -> None:
        monkeypatch.setattr(scheduler, "tick", tick)
        loop = SchedulingLoop(scheduler)
        for _ in range(3):
            loop.poke()
            await asyncio.sleep(0.01)
        await asyncio.sleep(10.0)
        assert ticked_s == [0.0, pytest.approx(0.2)], "once more, and not for every poke"
        loop.poke()
        await asyncio.sleep(0.01)
        assert len(ticked_s) == 3, "and then as ever"

    clock.run(act())
