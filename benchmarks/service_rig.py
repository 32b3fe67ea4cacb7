"""A fleet over its real wire for measurements: the router in this process, every worker a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import yaml

from benchmarks.generation import Prompt
from contracts.errors import Unavailable
from router.front import FrontLimits
from router.server import Router, run_router
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc, types_pb2
from workers.drafters.registry import KINDS

__all__ = ["MeasuredFleet", "WorkerProcesses", "measured_fleet", "name_of", "say"]

_START_S = 120.0
_END_S = 20.0


def name_of(drafter: str) -> str:
    """What a drafter is called that is given as a kind or a folder."""
    return drafter if drafter in KINDS else Path(drafter).name


@dataclass(slots=True)
class WorkerProcesses:
    """Verifier and drafters by name; each can be started and killed while the others go on."""

    port: int
    config: Path
    log: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """It ends with this process, however that ends."""
        tied = [sys.executable, "-m", "cluster.tied", str(os.getpid()), "", sys.executable, "-m"]
        command = ["workers.verifier"] if name == "verifier" else ["workers.drafter", "--name", name]
        options = ["--router", f"127.0.0.1:{self.port}", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.running[name] = subprocess.Popen([*tied, *command, *options], stdout=log, stderr=subprocess.STDOUT)

    def kill(self, name: str) -> None:
        """Without a word, as machines do."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=_END_S)
        self.running.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFleet:
    router: Router
    workers: WorkerProcesses
    stub: inference_pb2_grpc.InferenceStub

    def use(self, mode: str) -> None:
        """For requests from now on: also modes that lack a part, which no client can ask for."""
        admission = self.router.front.admission
        admission.limits = replace(admission.limits, mode=mode)


@contextlib.asynccontextmanager
async def measured_fleet(
    *,
    target: str,
    drafters: Sequence[str],
    limits: FrontLimits,
    dtype: str,
    threads: int,
    prefix_cache: bool = True,
    with_target: bool = False,
) -> AsyncIterator[MeasuredFleet]:
    """Ready when all have joined. Without a prefix cache a prompt that comes again is read again; `with_target` puts
    those that have a model into the target's process."""
    names = [name_of(drafter) for drafter in drafters]
    config = _config(target, drafters, threads=threads, with_target=with_target, dtype=dtype, prefix_cache=prefix_cache)
    async with run_router("127.0.0.1:0", limits=limits, drafter_order=names) as router:
        with _workers(config, router.port) as workers:
            await _joined(router, ["verifier", *names])
            async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
                yield MeasuredFleet(router=router, workers=workers, stub=inference_pb2_grpc.InferenceStub(channel))


async def say(
    stub: inference_pb2_grpc.InferenceStub, prompt: Prompt, *, max_tokens: int, temperature: float, seed: int = 1
) -> tuple[tuple[int, ...], float]:
    """The tokens of the answer, and after how many seconds the first came."""
    request = pb.GenerateRequest(
        sampling=types_pb2.Sampling(temperature=temperature, seed=seed), stop=pb.Stop(max_tokens=max_tokens)
    )
    if prompt.messages:
        request.chat.messages.extend(pb.Chat.Message(**message) for message in prompt.messages)
    else:
        request.prompt = prompt.prompt
    began_s, first_s = time.perf_counter(), 0.0
    tokens: list[int] = []
    async for response in stub.Generate(request):
        if response.HasField("tokens"):
            first_s = first_s or time.perf_counter() - began_s
            tokens += [token.token_id for token in response.tokens.tokens]
    return tuple(tokens), first_s


def _config(
    target: str, drafters: Sequence[str], *, threads: int, with_target: bool, **engine: str | bool
) -> dict[str, Any]:
    """The fleet's file; `engine` is for all of them alike."""
    of_drafter: dict[str, dict[str, Any]] = {}
    for given in drafters:
        if given in KINDS:
            of_drafter[given] = {"kind": given}
        else:
            of_model = {**engine, "model": given, "num_threads": 1, "kv_cache_bytes": "256MiB"}
            of_drafter[name_of(given)] = {"kind": "model", "engine": of_model, "with_target": with_target}
    of_target = {**engine, "model": target, "num_threads": threads, "kv_cache_bytes": "1GiB"}
    return {"engine": of_target, "drafters": of_drafter}


@contextlib.contextmanager
def _workers(config: dict[str, Any], port: int) -> Iterator[WorkerProcesses]:
    alone = [name for name, drafter in config["drafters"].items() if not drafter.get("with_target")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        path.write_text(yaml.safe_dump(config))
        workers = WorkerProcesses(port=port, config=path, log=Path(folder) / "workers.log")
        for name in ("verifier", *alone):
            workers.start(name)
        try:
            yield workers
        except Unavailable:
            print(workers.log.read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            workers.end()


async def _joined(router: Router, names: Sequence[str]) -> None:
    deadline_s = time.monotonic() + _START_S
    while not set(names) <= router.fleet.streams.keys():
        if time.monotonic() > deadline_s:
            missing = sorted(set(names) - router.fleet.streams.keys())
            raise Unavailable(f"{', '.join(missing)} did not join within {_START_S:.0f} s")
        await asyncio.sleep(0.05)
