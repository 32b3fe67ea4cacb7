"""A fleet of processes that can be harmed: store, router, verifier of two ranks, drafters, and a keeper."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import yaml

from cluster.descendants import descendants
from contracts.config import EngineConfig
from specfleet.admin import Admin
from specfleet.async_client import AsyncClient
from specfleet.v1 import admin_pb2
from tests.router.valkey import Valkey
from tests.service.router_process import CHECKOUT, RouterProcess, until

__all__ = ["HarmedFleet", "harmed_fleet", "until_quiet"]

_LOOK_S = 0.05
_WRONG_CLOCK = """
import pathlib, time
_true, _offset = time.time, pathlib.Path(__file__).with_name("offset")
time.time = lambda: _true() + float(_offset.read_text())
"""


class HarmedFleet:
    """What a fault gets its hands on. Whatever ends is started again at once, as a cluster's supervisor would."""

    def __init__(self, store: Valkey, router: RouterProcess, folder: Path) -> None:
        self.store, self.router, self.folder = store, router, folder
        self.workers: dict[str, Process] = {}
        self.num_restarts = 0
        self.clock = folder / "clock"
        self.router.env = self.env = {"PYTHONPATH": str(self.clock), "OMP_NUM_THREADS": "1"}
        self._commands: dict[str, tuple[str, ...]] = {}

    @property
    def address(self) -> str:
        return self.router.address

    async def start(self, name: str, *command: str) -> None:
        """A worker, from now on kept alive."""
        self._commands[name] = command
        with (self.folder / f"{name}.log").open("ab") as log:
            self.workers[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *command, "--config", str(self.router.file), "--router", self.address),
                cwd=CHECKOUT,
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
            )

    async def keep(self) -> None:
        """Starts again what has ended, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for name, process in list(self.workers.items()):
                if process.returncode is not None:
                    self.num_restarts += 1
                    await self.start(name, *self._commands[name])
            if self.router.has_ended:
                self.num_restarts += 1
                await self.router.start()

    def set_clocks(self, offset_s: float) -> None:
        """Lets the wall clock of all Python processes be so far from the truth, from now on."""
        whole = self.clock / "offset.new"
        whole.write_text(str(offset_s))
        whole.rename(self.clock / "offset")

    def signal(self, name: str, number: int) -> None:
        self.workers[name].send_signal(number)

    def ranks(self) -> list[int]:
        """Process ids of the verifier's ranks but the first."""
        return [
            pid
            for pid in descendants(self.workers["verifier"].pid)
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    async def until_quiet(self) -> None:
        """Until nothing is left of any request."""
        await until_quiet(self.address, num_drafters=len(self.workers) - 1)

    async def end(self) -> None:
        for process in self.workers.values():
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self.workers.values()))


@contextlib.asynccontextmanager
async def harmed_fleet(
    folder: Path, engine: EngineConfig, drafter: EngineConfig, store: Valkey
) -> AsyncIterator[HarmedFleet]:
    """Ready when all have joined."""
    router = RouterProcess(folder, engine, {"url": store.url})
    settings = yaml.safe_load(router.file.read_text())
    settings["drafters"] = {
        "twin": {"kind": "model", "engine": drafter.model_dump(mode="json", exclude_defaults=True)},
        "lookup": {"kind": "prompt_lookup"},
    }
    router.file.write_text(yaml.safe_dump(settings))
    fleet = HarmedFleet(store, router, folder)
    keeping: asyncio.Task[None] | None = None
    fleet.clock.mkdir()
    (fleet.clock / "sitecustomize.py").write_text(_WRONG_CLOCK)
    fleet.set_clocks(0.0)
    try:
        await router.start()
        await fleet.start("verifier", "workers.verifier")
        for name in settings["drafters"]:
            await fleet.start(name, "workers.drafter", "--name", name)
        await router.until_ready(*settings["drafters"])
        keeping = asyncio.create_task(fleet.keep())
        yield fleet
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        await fleet.end()
        await router.close()


async def until_quiet(address: str, *, num_drafters: int) -> None:
    """Until a fleet is whole, and nothing is left of any request: no sequence, and no block of the cache that nobody
    could find again.
    """

    def status() -> admin_pb2.StatusResponse:
        with Admin(address, timeout_s=10.0) as admin:
            return admin.status()

    def is_quiet() -> bool:
        with contextlib.suppress(Exception):
            now = status()
            busy = now.num_running + now.num_waiting + sum(each.num_sequences for each in now.drafters)
            return busy == 0 and len(now.drafters) == num_drafters and now.verifier.state == "serving"
        return False

    await until(is_quiet, "the fleet is whole, and nothing is left of any request")
    # The verifier says what its cache has free after a round: so one more request, which needs little.
    async with AsyncClient(address) as client:
        _ = [event async for event in client.generate("the", max_tokens=1, ignore_eos=True, mode="off")]
    of = status().verifier
    assert of.num_blocks - of.num_free_blocks <= 2, f"blocks are lost: {of}"
