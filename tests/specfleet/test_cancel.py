"""Leaving a generation early cancels it at the fleet, in whatever way it is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from specfleet import AsyncClient, Cancelled, Client, TokenEvent
from specfleet.v1 import inference_pb2 as pb
from tests.specfleet.scripted_fleet import ScriptedFleet


@pytest.fixture(autouse=True)
def stalling(fleet: ScriptedFleet) -> None:
    fleet.script.stall_after = 3


def close(fleet: ScriptedFleet) -> str:
    with Client(fleet.address) as client:
        generation = client.generate("Hello")
        next(generation)
        generation.close()
        assert list(generation) == []
    return generation.request_id


def leave_the_loop(fleet: ScriptedFleet) -> str:
    async def leave() -> str:
        async with AsyncClient(fleet.address) as client:
            generation = client.generate("Hello")
            async for _ in generation:
                break
            await generation.aclose()
        return generation.request_id

    return asyncio.run(leave())


def forget_it(fleet: ScriptedFleet) -> str:
    with Client(fleet.address) as client:
        for _ in client.generate("Hello", request_id="forgotten"):
            break
    return "forgotten"


def cancel_the_task(fleet: ScriptedFleet) -> str:
    async def cancelled() -> str:
        async with AsyncClient(fleet.address) as client:
            generation = client.generate("Hello")

            async def listen() -> list[TokenEvent]:
                return [event async for event in generation]

            listening = asyncio.create_task(listen())
            await asyncio.to_thread(fleet.stalled.wait, 10)
            listening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listening
        return generation.request_id

    return asyncio.run(cancelled())


def cancel_before_the_first_answer(fleet: ScriptedFleet) -> str:
    fleet.script.stall_after = 0
    return cancel_the_task(fleet)


@pytest.mark.parametrize("leave", [close, leave_the_loop, forget_it, cancel_the_task, cancel_before_the_first_answer])
def test_leaving_early_cancels(fleet: ScriptedFleet, leave: Callable[[ScriptedFleet], str]) -> None:
    request_id = leave(fleet)
    assert [call.request_id for call in fleet.asked(pb.CancelRequest)] == [request_id]
    assert fleet.ended.wait(10)


def test_a_generation_nobody_iterates_over_asks_for_nothing(fleet: ScriptedFleet) -> None:
    with Client(fleet.address) as client:
        client.generate("Hello").close()
    assert fleet.calls == []


def test_cancelling_by_id_ends_the_stream_with_its_tokens(fleet: ScriptedFleet) -> None:
    with Client(fleet.address) as client:
        generation = client.generate("Hello")
        events: list[TokenEvent] = []
        listening = threading.Thread(target=lambda: events.extend(generation))
        listening.start()
        assert fleet.stalled.wait(10)
        assert client.cancel(generation.request_id)
        listening.join(10)
    assert [event.token_id for event in events] == [11, 12]
    assert events[-1].finish_reason == "cancelled"


def test_closing_an_async_client_is_no_cancelled_task(fleet: ScriptedFleet) -> None:
    async def close_under() -> None:
        client = AsyncClient(fleet.address)

        async def listen() -> list[TokenEvent]:
            return [event async for event in client.generate("Hello")]

        listening = asyncio.create_task(listen())
        await asyncio.to_thread(fleet.stalled.wait, 10)
        await client.close()
        with pytest.raises(Cancelled, match="the client was closed"):
            await listening

    asyncio.run(close_under())


def test_closing_a_client_ends_what_waits_in_other_threads(fleet: ScriptedFleet) -> None:
    client = Client(fleet.address)
    errors: list[BaseException] = []

    def listen() -> None:
        try:
            list(client.generate("Hello"))
        except Cancelled as error:
            errors.append(error)

    listening = threading.Thread(target=listen)
    listening.start()
    assert fleet.stalled.wait(10)
    client.close()
    listening.join(10)
    assert len(errors) == 1


def test_a_closed_client_says_so(fleet: ScriptedFleet) -> None:
    async def ask_again() -> None:
        async with AsyncClient(fleet.address) as client:
            pass
        with pytest.raises(Cancelled, match="the client is closed"):
            await client.list_models()
        with pytest.raises(Cancelled, match="the client is closed"):
            await client.complete("Hello")

    asyncio.run(ask_again())
    with Client(fleet.address) as client:
        pass
    with pytest.raises(Cancelled, match="the client is closed"):
        client.list_models()
    with pytest.raises(Cancelled, match="the client is closed"):
        client.complete("Hello")
