"""Virtual time: only waiting moves it, in an order that the code alone decides."""

from __future__ import annotations

import asyncio
import contextvars
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import Clock, SystemClock, VirtualClock

delays = st.lists(st.floats(0.0, 1e6) | st.sampled_from([0.1, 0.1 + 0.2, 0.3]), max_size=30)


@given(delays)
def test_sleepers_wake_by_deadline_then_by_age(delays_s: list[float]) -> None:
    clock = VirtualClock(start_s=5.0)
    woken: list[tuple[int, float]] = []

    async def sleeper(index: int) -> None:
        await clock.sleep(delays_s[index])
        woken.append((index, clock.now_s()))

    async def main() -> None:
        await asyncio.gather(*(sleeper(index) for index in range(len(delays_s))))

    clock.run(main())
    in_order = sorted(range(len(delays_s)), key=lambda index: (5.0 + max(0.0, delays_s[index]), index))
    # A delay of nothing is no timer: it only lets the others run once.
    in_order.sort(key=lambda index: delays_s[index] > 0)
    assert [index for index, _ in woken] == in_order
    assert [now_s for _, now_s in woken] == [5.0 + delays_s[index] for index in in_order]


def test_a_day_passes_in_a_moment() -> None:
    clock = VirtualClock(start_s=1.0, wall_start_s=1_700_000_000.0)
    started = time.monotonic()
    clock.run(clock.sleep(86_400.0))
    assert clock.now_s() == 86_401.0
    assert clock.wall_s() == 1_700_086_400.0
    assert time.monotonic() - started < 5.0


def test_asyncio_timeouts_follow_virtual_time() -> None:
    clock = VirtualClock()

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await clock.sleep(31.0)
        return clock.now_s()

    assert clock.run(main()) == 30.0


def test_a_computation_lets_deadlines_pass_without_anyone_idling() -> None:
    clock = VirtualClock()
    fired_at: list[float] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: fired_at.append(clock.now_s()))
        for _ in range(5):
            clock.advance(0.75)
            await asyncio.sleep(0)

    clock.run(main())
    assert fired_at
    assert fired_at[0] < clock.now_s(), "the timer waited until nothing else was left to do"


def test_time_only_goes_forward() -> None:
    clock = VirtualClock()
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="goes forward"):
            clock.advance(seconds)
    assert clock.now_s() == 0.0


def test_cancelled_timers_neither_fire_nor_move_time_nor_pile_up() -> None:
    clock = VirtualClock()
    fired: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10_000):
            loop.call_later(0.5, fired.append, "cancelled").cancel()
        assert len(loop._timers) < 200  # type: ignore[attr-defined]
        await clock.sleep(1.0)

    clock.run(main())
    assert clock.now_s() == 1.0
    assert not fired


def test_a_timer_can_cancel_another_of_the_same_moment() -> None:
    clock = VirtualClock()
    fired: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        victims: list[asyncio.TimerHandle] = []
        loop.call_at(1.0, lambda: victims[0].cancel())
        victims.append(loop.call_at(1.0, fired.append, "cancelled"))
        await clock.sleep(2.0)

    clock.run(main())
    assert not fired


def test_timers_run_in_the_context_of_who_set_them() -> None:
    clock = VirtualClock()
    request = contextvars.ContextVar("request", default="nobody")
    seen: list[str] = []

    async def main() -> None:
        request.set("setter")
        asyncio.get_running_loop().call_later(1.0, lambda: seen.append(request.get()))
        await clock.sleep(2.0)

    clock.run(main())
    assert seen == ["setter"]


def test_threads_are_heard_when_nothing_else_is_due() -> None:
    clock = VirtualClock()

    def work() -> str:
        time.sleep(0.05)
        return "heard"

    async def main() -> str:
        async with asyncio.timeout(3600.0):
            await asyncio.sleep(0)
        return await asyncio.to_thread(work)

    assert clock.run(main()) == "heard"
    assert clock.now_s() == 0.0, "a timeout that was over moved time"


def test_a_deadlock_is_an_error_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nobody can go on"):
        VirtualClock().run(main())


def test_sleeping_on_a_clock_that_nobody_moves_is_refused() -> None:
    clock, other = VirtualClock(), VirtualClock()

    async def nap() -> None:
        await clock.sleep(1.0)

    with pytest.raises(RuntimeError, match="outside its run"):
        asyncio.run(nap())
    with pytest.raises(RuntimeError, match="outside its run"):
        other.run(nap())


def test_system_clock_waits_for_real() -> None:
    clock: Clock = SystemClock()
    before_s, wall_s = clock.now_s(), clock.wall_s()
    asyncio.run(clock.sleep(0.02))
    assert clock.now_s() - before_s >= 0.019
    assert abs(wall_s - time.time()) < 60.0
