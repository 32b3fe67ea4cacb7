"""The router as a process that can be killed, stopped and started again, and workers that outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contracts.clock import SystemClock
from contracts.config import DrafterConfig, EngineConfig
from engine.local_group import local_engine
from specfleet.v1 import admin_pb2, admin_pb2_grpc
from tests.router.valkey import free_port
from workers.drafter_node.hosting import hosted
from workers.process import Worker, serve
from workers.verifier.hello import hello_of, probe
from workers.verifier.node import VerifierNode

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


class RouterProcess:
    """`python -m router`, always on the same port."""

    def __init__(
        self,
        folder: Path,
        engine: EngineConfig,
        store: dict[str, object],
        keys_file: Path | None = None,
        drafters: Mapping[str, DrafterConfig] | None = None,
        **router: object,
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / f"router-{self.port}.log"
        self.file = folder / f"router-{self.port}.yaml"
        settings = {
            "engine": engine.model_dump(mode="json", exclude_defaults=True),
            "router": {"grpc_port": self.port, "http_port": 0, "drafting": "always", **router},
            "store": store,
            "drafters": {
                name: config.model_dump(mode="json", exclude_defaults=True) for name, config in (drafters or {}).items()
            },
            "security": {} if keys_file is None else {"api_keys": str(keys_file)},
        }
        self.file.write_text(yaml.safe_dump(settings))
        self.env: dict[str, str] = {}
        self.admin_key = ""
        self._process: Process | None = None

    async def start(self) -> None:
        """Returns at once."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "router", "--config", str(self.file)),
                cwd=CHECKOUT,
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
            )

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def signal(self, number: int) -> None:
        assert self._process is not None, "started before"
        self._process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        """Its exit status, when it has ended."""
        assert self._process is not None, "started before"
        async with asyncio.timeout(DEADLINE_S):
            return await self._process.wait()

    async def until_it_says(self, words: str, *, since: int = 0) -> None:
        """In its log, after so many characters."""
        try:
            await until(lambda: words in self.log.read_text()[since:])
        except AssertionError:
            raise AssertionError(
                f"expected {words!r}, but the router said only\n{self.log.read_text()[since:]}"
            ) from None

    async def until_ready(self, *drafters: str) -> None:
        """Until a request would run, with these drafters."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its annotations know no asynchronous channels
            admin = admin_pb2_grpc.AdminStub(channel)

            as_admin = (("authorization", f"Bearer {self.admin_key}"),) if self.admin_key else ()

            async def is_ready() -> bool:
                try:
                    of = health_pb2.HealthCheckRequest(service="specfleet.v1.Inference")
                    status = (await health.Check(of)).status
                    known = {
                        each.name
                        for each in (await admin.Status(admin_pb2.StatusRequest(), metadata=as_admin)).drafters
                    }
                except grpc.aio.AioRpcError:
                    return False
                return bool(status == health_pb2.HealthCheckResponse.SERVING) and known >= set(drafters)

            async with asyncio.timeout(DEADLINE_S):
                while not await is_ready():  # noqa: ASYNC110  # another process tells nobody but those who ask
                    await asyncio.sleep(0.02)

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()


@contextlib.asynccontextmanager
async def router_process(
    folder: Path,
    engine: EngineConfig,
    store: dict[str, object],
    keys_file: Path | None = None,
    drafters: Mapping[str, DrafterConfig] | None = None,
    **router: object,
) -> AsyncIterator[RouterProcess]:
    process = RouterProcess(folder, engine, store, keys_file, drafters, **router)
    await process.start()
    try:
        yield process
    finally:
        await process.close()


@contextlib.asynccontextmanager
async def workers(address: str, engine: EngineConfig, drafters: dict[str, DrafterConfig]) -> AsyncIterator[None]:
    """A verifier and drafters in this process, that dial the router for as long as the block runs."""
    stop = asyncio.Event()
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(local_engine(engine))
        hello = hello_of("verifier", loaded, probe(loaded.engine, SystemClock()))
        nodes: list[Worker] = [VerifierNode(loaded.engine, name="verifier", hello=hello)]
        nodes += [stack.enter_context(hosted(name, config)) for name, config in drafters.items()]
        tasks = [asyncio.create_task(serve(node, router=address, stop=stop)) for node in nodes]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def verifier_process(router: RouterProcess) -> AsyncIterator[Process]:
    """A verifier that can be stopped."""
    async with _worker_process(router, "workers.verifier") as process:
        yield process


@contextlib.asynccontextmanager
async def drafter_process(router: RouterProcess, name: str, log: Path) -> AsyncIterator[Process]:
    """One of the router's drafters, that can be killed."""
    async with _worker_process(router, "workers.drafter", "--name", name, log=log) as process:
        yield process


@contextlib.asynccontextmanager
async def _worker_process(
    router: RouterProcess, module: str, *options: str, log: Path = Path(os.devnull)
) -> AsyncIterator[Process]:
    with log.open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *options, "--config", str(router.file), "--router", router.address),
            cwd=CHECKOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(is_so: Callable[[], object], what: str = "it came to be", *, patience_s: float = DEADLINE_S) -> None:
    """Returns when it is so; it is a failure when it takes too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while not is_so():  # noqa: ASYNC110  # nor does a test's own state
                await asyncio.sleep(0.01)
            return
    raise AssertionError(f"expected within {patience_s} s: {what}")
