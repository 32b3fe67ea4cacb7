"""A peer that is a server of its own and stays warm: it is asked over HTTP, and tells its tokens as server-sent events
while they come."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Ask, RouterWork, Said
from benchmarks.peers.processes import with_children
from benchmarks.peers.workloads import Question
from contracts.errors import Unavailable

__all__ = ["Event", "Face", "ServerProcess", "server_process"]

Event = tuple[dict[str, Any], float]
"""What a server told, and how long after it was asked."""

_HOST = "127.0.0.1"
_ANSWER_S = 600.0
_END_S = 30.0
_LAST_WORDS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """How one server is spoken to. All of them say at `/health` when they are ready."""

    path: str
    body: Callable[[Question, Ask], dict[str, Any]]
    said: Callable[[Sequence[Event]], Said]
    forget_path: str | None = None
    """Posted to before a turn, where a server would guess what it answered in the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    name: str
    process: int
    port: int
    max_together: int
    face: Face

    def processes(self) -> list[int]:
        return with_children(self.process)

    def router_work(self) -> RouterWork | None:
        return None

    async def answer(self, questions: Sequence[Question], ask: Ask) -> list[Said]:
        if self.face.forget_path is not None:
            await self._forget(self.face.forget_path)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(ask.together) as threads:  # those of asyncio are few on a machine with few cores
            asked = (loop.run_in_executor(threads, self._say, question, ask) for question in questions)
            return await asyncio.gather(*asked)

    def _say(self, question: Question, ask: Ask) -> Said:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            body = json.dumps(self.face.body(question, ask))
            began_s = time.perf_counter()
            connection.request("POST", self.face.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise Unavailable(f"{self.name} answers {answer.status}: {answer.read().decode(errors='replace')}")
            events = [(json.loads(event), time.perf_counter() - began_s) for event in _events(answer)]
        if wrong := [event["error"] for event, _ in events if "error" in event]:
            raise Unavailable(f"{self.name} broke off its answer: {wrong[0]}")
        return self.face.said(events)

    async def _forget(self, path: str) -> None:
        """Refused for as long as anything of the turn before is left."""
        deadline_s = time.monotonic() + _ANSWER_S
        while (status := await asyncio.to_thread(_status, self.port, "POST", path)) != http.client.OK:
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{self.name} answers {status} to {path}, and so would guess its own earlier answers")
            await asyncio.sleep(0.05)


def _events(lines: http.client.HTTPResponse) -> Iterator[bytes]:
    for line in lines:
        event = line.strip().removeprefix(b"data: ")
        if line.startswith(b"data: ") and event != b"[DONE]":
            yield event


@contextlib.asynccontextmanager
async def server_process(
    name: str,
    program: Sequence[str],
    options: Mapping[str, object],
    *,
    face: Face,
    together: int,
    start_s: float,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[ServerProcess]:
    """Ready when its models are loaded. An option without a value is None; host and port are given here."""
    port = _free_port()
    command = [*program, *_words({**options, "--host": _HOST, "--port": port})]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            await _loaded(name, process, port, log, start_s)
            yield ServerProcess(name=name, process=process.pid, port=port, max_together=together, face=face)
        finally:
            await _ended(process)


def _words(options: Mapping[str, object]) -> Iterator[str]:
    for option, value in options.items():
        yield option
        if value is not None:
            yield str(value)


async def _loaded(name: str, process: asyncio.subprocess.Process, port: int, log: Path, start_s: float) -> None:
    deadline_s = time.monotonic() + start_s
    while await asyncio.to_thread(_status, port, "GET", "/health") != http.client.OK:
        if process.returncode is not None or time.monotonic() > deadline_s:
            last_words = (await asyncio.to_thread(log.read_text, errors="replace"))[-_LAST_WORDS:]
            what = f"is not ready after {start_s:.0f} s" if process.returncode is None else "has ended"
            raise Unavailable(f"{name} {what}: {last_words}")
        await asyncio.sleep(0.05)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """With all that it has started, which it may leave behind."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _status(port: int, method: str, path: str) -> int | None:
    """None where nobody answers."""
    connection = http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_S)
    with contextlib.closing(connection):
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port
