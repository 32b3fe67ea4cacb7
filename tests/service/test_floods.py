"""Ten thousand connections, opened and dropped: afterwards the router holds nothing of them, and serves."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from contracts.config import DrafterConfig
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import DEADLINE_S, RunningFleet, engine_of, running_fleet

NUM_CONNECTIONS = 10_000
AT_ONCE = 250
RESET = struct.pack("ii", 1, 0)  # closing throws away what is unsent and says so: a client that was killed


def drop_many(port: int, first_bytes: bytes) -> None:
    """Every second one says something first, and every second one hangs up politely."""
    for _ in range(NUM_CONNECTIONS // 2 // AT_ONCE):
        opened = []
        for index in range(AT_ONCE):
            opened.append(connection := socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
            if index % 2:
                connection.send(first_bytes)
            if index // 2 % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for connection in opened:
            connection.close()


def num_open_files() -> int:
    return len(os.listdir(f"/proc/{os.getpid()}/fd"))


async def until(is_so: Callable[[], bool], what: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"still there: {what()}")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_ten_thousand_dropped_connections_leave_nothing_behind(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", "llama")

    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        async def serves() -> None:
            assert (await fleet.say("the cat", max_tokens=4)).tokens
            assert (await client.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 4})).is_success

        await serves()
        num_files, num_tasks = num_open_files(), len(asyncio.all_tasks())
        request = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
        flooding = asyncio.gather(
            asyncio.to_thread(drop_many, fleet.http_port, request),
            asyncio.to_thread(drop_many, fleet.router.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        )
        while not flooding.done():
            await serves()  # during it, too
        await flooding
        # gRPC and asyncio close in their own time; a thread or two may have come to stay.
        await until(lambda: num_open_files() <= num_files + 8, lambda: f"{num_open_files()} files, were {num_files}")
        await until(lambda: len(asyncio.all_tasks()) <= num_tasks + 2, lambda: asyncio.all_tasks())
        await serves()

    async def run() -> None:
        async with (
            running_fleet(engine_of(folder), {"lookup": DrafterConfig(kind="prompt_lookup")}) as fleet,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{fleet.http_port}", timeout=DEADLINE_S) as client,
        ):
            await scene(fleet, client)

    asyncio.run(run())
