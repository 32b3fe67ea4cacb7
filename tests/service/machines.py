"""Several machines on one: network namespaces on a switch of their own, whose cables can be pulled.

The switch is a bridge in a namespace of its own, so that nothing of the machine that runs the tests is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.descendants import kill

__all__ = ["Machine", "Network", "network"]

CHECKOUT = Path(__file__).resolve().parents[2]


class Machine:
    """One namespace with one address; what starts here ends with it."""

    def __init__(self, namespace: str, cable: tuple[str, str], address: str) -> None:
        self.namespace, self.cable, self.address = namespace, cable, address

    @contextlib.asynccontextmanager
    async def running(self, log: Path, *module_and_arguments: str) -> AsyncIterator[Process]:
        """`python -m` here, killed when the block is left; it writes to a log, but for what it answers."""
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self.namespace, sys.executable, "-m", *module_and_arguments),
                cwd=CHECKOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def pids(self) -> list[int]:
        """Of all that runs here."""
        return _pids(self.namespace)

    def pull_cable(self) -> None:
        """From now on nothing passes, and nobody is told."""
        switch, port = self.cable
        _ip("-n", switch, "link", "set", port, "down")

    def plug_cable(self) -> None:
        switch, port = self.cable
        _ip("-n", switch, "link", "set", port, "up")


class Network:
    """Machines at addresses of their own, all on one switch."""

    def __init__(self) -> None:
        self._name = f"specfleet-{secrets.token_hex(4)}"  # two test runs at once must not meet
        self._switch = f"{self._name}-switch"
        self._namespaces: list[str] = []

    def open(self) -> None:
        self._add_namespace(self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")

    def machine(self) -> Machine:
        number = len(self._namespaces)
        namespace, port, address = f"{self._name}-{number}", f"port{number}", f"10.20.30.{number}"
        self._add_namespace(namespace)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        return Machine(namespace, (self._switch, port), address)

    def close(self) -> None:
        for namespace in self._namespaces:
            kill(_pids(namespace))  # what those who were started here left behind
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)

    def _add_namespace(self, name: str) -> None:
        _ip("netns", "add", name)
        self._namespaces.append(name)
        _ip("-n", name, "link", "set", "lo", "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Skips the test where this process may not make namespaces."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` command here, with which network namespaces are made")
    made = Network()
    try:
        try:
            made.open()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here (it takes root): {error.stderr.decode().strip()}")
        yield made
    finally:
        made.close()


def _pids(namespace: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)
