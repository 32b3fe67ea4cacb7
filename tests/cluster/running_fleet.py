"""A fleet of tiny models as its users start it: by its command, with folders of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from specfleet.tls import TlsFolder
from tests.engine.checkpoints import write_checkpoint
from tests.security.certificates import make

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 150.0

_ENGINE = "dtype: float32, device: cpu, num_threads: 1, kv_cache_bytes: 4MiB"
CONFIG = """
engine: {{model: {folder}/target, tensor_parallel: 2, {engine}}}
router: {{grpc_port: 0, http_port: 0, drafting: always}}
security: {{tls: {folder}/certificates}}
drafters:
  small:
    kind: model
    engine: {{model: {folder}/small, {engine}}}
    labels: {{accelerator: none-that-exists}}
  lookup: {{kind: prompt_lookup}}
"""
MORE = """
  spare: {{kind: recycling}}
  alien:
    kind: model
    engine: {{model: {folder}/alien, {engine}}}
"""


def write_fleet(folder: Path) -> Path:
    """Checkpoints, certificates, and a YAML file: two ranks, a model drafter, and one that needs none. `more.yaml` has
    two more: one to be added, and one with another tokenizer. Labels say nothing where there is one machine.
    """
    write_checkpoint(folder / "target", "llama", num_hidden_layers=2, max_position_embeddings=8192)
    write_checkpoint(folder / "small", "llama", num_hidden_layers=1, max_position_embeddings=8192, seed=1)
    make(folder / "certificates")
    file = folder / "fleet.yaml"
    file.write_text(CONFIG.format(folder=folder, engine=_ENGINE))
    write_checkpoint(folder / "alien", "llama", num_hidden_layers=1)
    tokenizer = folder / "alien" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|pad|>", "<|alien|>"))
    (folder / "more.yaml").write_text(file.read_text() + MORE.format(folder=folder, engine=_ENGINE).strip("\n"))
    return file


def until(is_so: Callable[[], object], what: str) -> None:
    """Returns when it is so; it is a failure when it takes too long."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"{what} within {PATIENCE_S} s"
        time.sleep(0.02)


def environment(state: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(state), "OMP_NUM_THREADS": "1", **more}


def command(state: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """One of the fleet's other commands, and what came of it."""
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=CHECKOUT,
        env=environment(state, **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


class RunningFleet:
    """The command `up` in a session of its own, and what it says."""

    def __init__(self, process: subprocess.Popen[str], state: Path, certificates: Path) -> None:
        self.process, self.state, self._certificates = process, state, certificates
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def said(self, pattern: str, *, since: int = 0) -> re.Match[str]:
        """Where it says this, in a line after the first `since`; waits for it."""

        def find() -> list[re.Match[str]]:
            return [found for line in self.lines[since:] if (found := re.search(pattern, line))]

        def is_decided() -> bool:
            return bool(find()) or self.process.poll() is not None

        try:
            until(is_decided, f"it says {pattern!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it said only\n{self.text}") from None
        found = find()
        assert found, f"it ended without saying {pattern!r}; it said\n{self.text}"
        return found[0]

    @property
    def address(self) -> str:
        return self.said(r"^  gRPC +(\S+)")[1]

    def channel(self) -> grpc.Channel:
        """To its router, for an admin."""
        return grpc.secure_channel(self.address, TlsFolder(self._certificates / "admin").read().for_channel())

    def pid_of(self, worker: str, *, since: int = 0) -> int:
        """Waits until it has joined."""
        return int(self.said(rf"{worker} has joined, as process (\d+)", since=since)[1])

    def processes(self) -> Mapping[int, str]:
        """All that belong to its session, by process id."""
        return session_of(self.process.pid)

    def ended(self) -> int:
        """Its exit status, when it and all that it said is here."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
        self.process.stdout.close()


@contextmanager
def running_fleet(file: Path, state: Path, *arguments: str, **more: str) -> Iterator[RunningFleet]:
    """Started, and gone with everything in its session when the block is left."""
    line: Sequence[str] = [sys.executable, "-m", "cluster", "up", "-c", str(file), "--no-dashboard", *arguments]
    process = subprocess.Popen(
        line,
        cwd=CHECKOUT,
        env=environment(state, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    fleet = RunningFleet(process, state, file.parent / "certificates")
    try:
        yield fleet
    finally:
        if process.poll() is None:
            process.terminate()
        fleet.ended()


def session_of(leader: int) -> Mapping[int, str]:
    """The living processes of a session, by process id. All that a fleet starts are in the session of its command."""
    found = dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        if int(session) == leader and state != "Z":
            found[int(folder.name)] = name
    return found
