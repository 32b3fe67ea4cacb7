"""Leaving a generation early cancels it at the fleet, in whatever way it is left."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from specfleet import AsyncClient, Cancelled, Client, TokenEvent
from specfleet.v1 import inference_pb2 as pb
from tests.specfleet.scripted_fleet import Refusal, ScriptedFleet


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


def keep_it_until_the_client_is_closed(fleet: ScriptedFleet) -> str:
    with Client(fleet.address) as client:
        generation = client.generate("Hello")
        next(generation)
    return generation.request_id


def break_out_of_the_loop(fleet: ScriptedFleet) -> str:
    async def leave() -> None:
        async with AsyncClient(fleet.address) as client:
            async for _ in client.generate("Hello", request_id="left"):
                break

    asyncio.run(leave())
    return "left"


def fail_in_the_loop(fleet: ScriptedFleet) -> str:
    async def fail() -> None:
        async with AsyncClient(fleet.address) as client:
            async for _ in client.generate("Hello", request_id="failed"):
                raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(fail())
    return "failed"


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


def cancel_again_and_again(fleet: ScriptedFleet) -> str:
    """As anyio does, and Starlette by it where a client has hung up."""

    async def listen() -> None:
        async with AsyncClient(fleet.address) as client:
            async for _ in client.generate("Hello", request_id="hung up"):
                pass

    async def cancel() -> None:
        listening = asyncio.create_task(listen())
        await asyncio.to_thread(fleet.stalled.wait, 10)
        while not listening.done():
            listening.cancel()
            await asyncio.sleep(0)
        # The stream ends before that is told, and a loop that ends takes along what is still to tell.
        await asyncio.to_thread(fleet.told_to_cancel.wait, 10)

    asyncio.run(cancel())
    return "hung up"


def cancel_before_the_first_answer(fleet: ScriptedFleet) -> str:
    fleet.script.stall_after = 0
    return cancel_the_task(fleet)


def close_from_another_thread(fleet: ScriptedFleet) -> str:
    with Client(fleet.address) as client:
        generation = client.generate("Hello")
        reasons: list[str | None] = []
        listening = threading.Thread(target=lambda: reasons.extend(event.finish_reason for event in generation))
        listening.start()
        assert fleet.stalled.wait(10)
        generation.close()
        listening.join(10)
        assert reasons[-1] == "cancelled"
    return generation.request_id


def close_from_another_task(fleet: ScriptedFleet) -> str:
    async def leave() -> str:
        async with AsyncClient(fleet.address) as client:
            generation = client.generate("Hello")

            async def listen() -> list[str | None]:
                return [event.finish_reason async for event in generation]

            listening = asyncio.create_task(listen())
            await asyncio.to_thread(fleet.stalled.wait, 10)
            await generation.aclose()
            assert (await listening)[-1] == "cancelled"
        return generation.request_id

    return asyncio.run(leave())


@pytest.mark.parametrize(
    "leave",
    [
        close,
        leave_the_loop,
        forget_it,
        keep_it_until_the_client_is_closed,
        break_out_of_the_loop,
        fail_in_the_loop,
        cancel_the_task,
        cancel_again_and_again,
        cancel_before_the_first_answer,
        close_from_another_thread,
        close_from_another_task,
    ],
)
def test_leaving_early_cancels(fleet: ScriptedFleet, leave: Callable[[ScriptedFleet], str]) -> None:
    request_id = leave(fleet)
    assert [call.request_id for call in fleet.asked(pb.CancelRequest)] == [request_id]
    assert fleet.ended.wait(10)


def test_closing_from_elsewhere_ends_the_search_for_a_stream_that_was_lost(fleet: ScriptedFleet) -> None:
    """Though a fleet that is away hears nothing of it."""
    is_away = threading.Event()

    def away(request: Any) -> Refusal | None:
        if isinstance(request, pb.GenerateRequest):
            return None
        is_away.set()
        return Refusal(grpc.StatusCode.UNAVAILABLE, "loading", reason="Unavailable")

    async def close_while_lost() -> None:
        async with AsyncClient(fleet.address) as client:
            generation = client.generate("Hello")

            async def listen() -> list[TokenEvent]:
                return [event async for event in generation]

            listening = asyncio.create_task(listen())
            await asyncio.to_thread(is_away.wait, 10)
            await generation.aclose()
            with pytest.raises(Cancelled, match="was left while its stream was lost"):
                await listening

    def close_in_a_thread() -> None:
        with Client(fleet.address) as client, ThreadPoolExecutor(1) as threads:
            generation = client.generate("Hello")
            listening = threads.submit(list, generation)
            assert is_away.wait(10)
            generation.close()
            with pytest.raises(Cancelled, match="was left while its stream was lost"):
                listening.result(10)

    for scene in (close_in_a_thread, lambda: asyncio.run(close_while_lost())):
        is_away.clear()
        fleet.script.cuts, fleet.on_call = [2], away
        scene()


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


def test_a_closed_client_stays_closed_when_its_certificates_are_renewed(
    fleet: ScriptedFleet, ours: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(ours / "client", tmp_path / "client")
    with Client(fleet.address, tls=folder) as client:
        pass
    for renewed in (ours / "client", ours / "admin"):
        shutil.copytree(renewed, folder, dirs_exist_ok=True)
        with pytest.raises(Cancelled, match="the client is closed"):
            client.list_models()
