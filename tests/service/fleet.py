"""A whole fleet in one process: the real router, verifier and drafter nodes, over real sockets on this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from contracts.clock import SystemClock
from contracts.config import DrafterConfig, EngineConfig, StoreConfig
from engine.local_group import local_engine
from router.front import FrontLimits
from router.http.app import run_http
from router.http.limits import HttpLimits
from router.server import Router, run_router
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc, types_pb2
from workers.drafter_node.hosting import hosted
from workers.process import Worker, serve
from workers.verifier.hello import hello_of, probe
from workers.verifier.node import VerifierNode

DEADLINE_S = 60.0
T = TypeVar("T")


def engine_of(folder: Path, **settings: object) -> EngineConfig:
    common = {"model": str(folder), "dtype": "float32", "num_threads": 1, "kv_cache_bytes": 32 * 2**20}
    return EngineConfig.model_validate({**common, **settings})


@dataclass
class Said:
    """All that a stream brought for one choice."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    drafters: set[str] = field(default_factory=set)
    finished: pb.Finished | None = None


class RunningFleet:
    """What a test talks to."""

    def __init__(self, router: Router, http_port: int, channel: grpc.aio.Channel) -> None:
        self.router, self.http_port, self.channel = router, http_port, channel
        self.stub = inference_pb2_grpc.InferenceStub(channel)
        self._stops: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stack = contextlib.ExitStack()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.router.port}"

    async def add_verifier(self, engine: EngineConfig) -> None:
        loaded = self._stack.enter_context(local_engine(engine))
        hello = hello_of("verifier", loaded, probe(loaded.engine, SystemClock()))
        await self._start("verifier", VerifierNode(loaded.engine, name="verifier", hello=hello))

    async def add_drafter(self, name: str, config: DrafterConfig) -> None:
        await self._start(name, self._stack.enter_context(hosted(name, config)))

    async def remove(self, name: str) -> None:
        self._stops.pop(name).set()
        await self._tasks.pop(name)
        await self._until(lambda: name not in self.router.fleet.streams)

    async def _start(self, name: str, node: Worker) -> None:
        stop = self._stops[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(serve(node, router=self.address, stop=stop))
        await self._until(lambda: name in self.router.fleet.streams or self._tasks[name].done())
        if self._tasks[name].done():
            self._tasks[name].result()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():  # noqa: ASYNC110  # the router tells nobody who is in it but those who ask
                await asyncio.sleep(0.005)

    async def say(
        self,
        prompt: str,
        *,
        mode: str = "fleet",
        temperature: float = 0.0,
        seed: int = 1,
        max_tokens: int = 16,
        drafters: Sequence[str] = (),
        **request: object,
    ) -> Said:
        said = Said()
        call = self.stub.Generate(
            pb.GenerateRequest(
                prompt=prompt,
                sampling=types_pb2.Sampling(temperature=temperature, seed=seed),
                stop=pb.Stop(max_tokens=max_tokens, ignore_eos=True),
                speculation=pb.Speculation(mode=f"MODE_{mode.upper()}", drafters=drafters),
                **request,  # type: ignore[arg-type]
            ),
            timeout=DEADLINE_S,
        )
        async for response in call:
            if response.HasField("tokens"):
                assert response.tokens.first_index == len(said.tokens)
                for token in response.tokens.tokens:
                    said.tokens.append(token.token_id)
                    said.text += token.text
                    said.drafters.add(token.drafter)
            elif response.HasField("finished"):
                said.finished = response.finished
                said.text += response.finished.text
        assert said.finished is not None
        return said

    async def close(self) -> None:
        for name in list(self._tasks):
            await self.remove(name)
        self._stack.close()


@contextlib.asynccontextmanager
async def running_fleet(
    target: EngineConfig,
    drafters: Mapping[str, DrafterConfig],
    *,
    limits: FrontLimits | None = None,
    http_limits: HttpLimits | None = None,
    store: StoreConfig | None = None,
    is_priced: bool = False,
) -> AsyncIterator[RunningFleet]:
    """Its drafters draft whatever it costs, unless that is asked about: with a target as small as these it would not
    pay for long."""
    async with (
        run_router(
            "127.0.0.1:0",
            limits=limits or FrontLimits(),
            drafter_order=list(drafters),
            is_priced=is_priced,
            store=store,
        ) as router,
        run_http(router.front, "127.0.0.1", 0, limits=http_limits or HttpLimits()) as http_port,
        grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel,
    ):
        fleet = RunningFleet(router, http_port, channel)
        try:
            await fleet.add_verifier(target)
            for name, config in drafters.items():
                await fleet.add_drafter(name, config)
            yield fleet
        finally:
            await fleet.close()


@contextlib.contextmanager
def kept(living: contextlib.AbstractAsyncContextManager[T]) -> Iterator[tuple[asyncio.Runner, T]]:
    """What several tests share one after another, and the loop it lives in, which rests between them."""
    with asyncio.Runner() as runner:
        entered = runner.run(living.__aenter__())
        try:
            yield runner, entered
        finally:
            runner.run(living.__aexit__(None, None, None))
