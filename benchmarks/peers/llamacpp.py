"""llama.cpp's server as a peer, where one is installed or named: plainly, or with a draft model."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import hugging_face
from benchmarks.peers.line_process import said
from benchmarks.peers.peer import Ask, RouterWork, Said
from benchmarks.peers.processes import with_children
from benchmarks.peers.workloads import Question
from contracts.errors import InvalidArgument, Unavailable

__all__ = ["PREFIX", "WAYS", "LlamaServer", "best_dtype", "llama_server", "llama_server_version", "rounds_of"]

PREFIX = "llamacpp-"
WAYS = ("plain", "draft")
_HOST = "127.0.0.1"
_START_S = 120.0
_ANSWER_S = 600.0
_CONTEXT_STEP = 256  # it wants room in such pieces


def llama_server_version(program: str) -> str:
    """Refused, with what to do, where there is no such program."""
    try:
        found = subprocess.run([program, "--version"], capture_output=True, text=True)
    except OSError as error:
        raise InvalidArgument(
            f"{program} does not start ({error.strerror}); build llama.cpp's server and name it with --llama-server"
        ) from error
    lines = (found.stdout + found.stderr).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("version:")), "of no version")


def best_dtype(dtype: str) -> str:
    """Of the file that it is given beside ours in `dtype`: without products of bfloat16 it is quicker in float16, which
    takes as much memory."""
    return hugging_face.best_dtype().replace("float32", "float16") if dtype == "bfloat16" else dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServer:
    name: str
    process: int
    port: int
    max_together: int

    def processes(self) -> list[int]:
        return with_children(self.process)

    def router_work(self) -> RouterWork | None:
        return None

    async def answer(self, questions: Sequence[Question], ask: Ask) -> list[Said]:
        room = asyncio.Semaphore(ask.together)

        async def asked(question: Question) -> Said:
            async with room:
                return await asyncio.to_thread(self._say, question, ask)

        return await asyncio.gather(*map(asked, questions))

    def _say(self, question: Question, ask: Ask) -> Said:
        body = {
            "prompt": list(question.tokens),
            "n_predict": ask.max_tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
            "samplers": ["temperature"],  # nothing that cuts the distribution
            "cache_prompt": False,  # every turn asks the same prompts, and others read them each time
            "return_tokens": True,
            "timings_per_token": True,
            "stream": True,
        }
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            began_s = time.perf_counter()
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise Unavailable(f"{self.name} answers {answer.status}: {answer.read().decode(errors='replace')}")
            events = [(json.loads(event), time.perf_counter() - began_s) for event in _events(answer)]
        return said(*rounds_of(events))


def _events(lines: http.client.HTTPResponse) -> Iterator[bytes]:
    for line in lines:
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ")


def rounds_of(events: Sequence[tuple[dict[str, Any], float]]) -> tuple[list[list[int]], list[float]]:
    """The tokens of each round, and when its last came.

    The server tells token by token, each time with how many draft tokens it has accepted so far: at the first token of
    a round by as many more as accepted ones follow it. Of a character that takes several tokens it tells the last one
    only; the others, whose number shows in its count, are given as the same token.
    """
    rounds: list[list[int]] = []
    times_s: list[float] = []
    num_told = num_accepted = num_due = 0
    for event, at_s in events:
        timings = event["timings"]
        for _ in range(timings["predicted_n"] - num_told) if event["tokens"] else ():
            if num_due == 0:
                now_accepted = timings.get("draft_n_accepted", 0)
                num_due, num_accepted = 1 + now_accepted - num_accepted, now_accepted
                rounds.append([])
                times_s.append(at_s)
            rounds[-1].append(event["tokens"][0])
            times_s[-1] = at_s
            num_due -= 1
            num_told += 1
    return rounds, times_s


@contextlib.asynccontextmanager
async def llama_server(
    way: str, *, program: str, target: Path, draft: Path, dtype: str, threads: int, together: int, context: int
) -> AsyncIterator[LlamaServer]:
    """Ready when its models are loaded; `target` and `draft` are GGUF files. Each of so many requests at once has room
    for `context` tokens."""
    name, port = f"{PREFIX}{way}", _free_port()
    room = -(-context // _CONTEXT_STEP) * _CONTEXT_STEP * together
    options = {
        "--model": target,
        "--host": _HOST,
        "--port": port,
        "--threads": threads,
        "--parallel": together,
        "--ctx-size": room,
        "--cache-ram": 0,
    }
    if way == "draft":
        options |= {"--spec-type": "draft-simple", "--spec-draft-model": draft, "--spec-draft-threads": threads}
    if dtype == "float32":
        options |= {"--cache-type-k": "f32", "--cache-type-v": "f32"}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            command = [program, *(str(word) for option in options.items() for word in option)]
            process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            await _loaded(name, process, port, log)
            yield LlamaServer(name=name, process=process.pid, port=port, max_together=together)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _loaded(name: str, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while not await asyncio.to_thread(_is_healthy, port):
        if process.returncode is not None or time.monotonic() > deadline_s:
            said_last = (await asyncio.to_thread(log.read_text))[-2000:]
            raise Unavailable(f"{name} has not started within {_START_S:.0f} s: {said_last}")
        await asyncio.sleep(0.05)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=_START_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port
