"""The folders of a fleet, and the two files that say which fleet runs here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from contracts.errors import AlreadyExists, NotFound

__all__ = ["Home", "Record", "running_fleet", "state_folder", "wait_until_ended"]

_LOCK, _RECORD = "fleet.lock", "fleet.json"
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fleet that runs: what its other commands need to know."""

    pid: int
    control: str
    """Path of the socket on which it takes commands."""
    grpc: str
    http: str
    dashboard: str
    """Empty where there is none."""
    ray: str
    is_local: bool


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's programs keep what outlives them."""
    base = environment.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "specfleet"


class Home:
    """The folders of one running fleet. A state folder has one fleet at a time; the lock on it is the kernel's, so that
    it never outlives the process that holds it.

    `state` stays; `run` is for sockets, logs and Ray's files, and goes with a fleet that ended well. It lies in /tmp,
    because the path of a socket may have a hundred characters and Ray adds most of them.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (state / _LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise AlreadyExists(_taken(state)) from None
        (state / _RECORD).unlink(missing_ok=True)
        self.run = Path(tempfile.mkdtemp(prefix="specfleet-up-", dir="/tmp"))
        self.logs = self.run / "logs"
        self.logs.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None or not self.has_logs:
            shutil.rmtree(self.run, ignore_errors=True)
        (self.state / _RECORD).unlink(missing_ok=True)
        self._lock.close()  # which gives it up

    @property
    def has_logs(self) -> bool:
        """Whether anything was said that explains an end."""
        return any(log.stat().st_size for log in self.logs.iterdir())

    def write(self, record: Record) -> None:
        """Makes the fleet known to its other commands, whole or not at all."""
        draft = self.state / f"{_RECORD}.new"
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(self.state / _RECORD)


def running_fleet(state: Path) -> Record:
    """The fleet that runs with this state folder, or NotFound."""
    record = _read(state)
    if record is None or not _is_locked(state):
        raise NotFound(f"no fleet runs with the state folder {state}; start one with `python -m cluster up`")
    return record


def wait_until_ended(state: Path, patience_s: float) -> bool:
    """Whether the fleet there has ended in time."""
    deadline_s = time.monotonic() + patience_s
    while _is_locked(state):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _is_locked(state: Path) -> bool:
    with (state / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read(state: Path) -> Record | None:
    try:
        return Record(**json.loads((state / _RECORD).read_bytes()))
    except FileNotFoundError:
        return None


def _taken(state: Path) -> str:
    record = _read(state)
    who = f", as process {record.pid} with gRPC at {record.grpc}" if record is not None else ""
    return (
        f"a fleet runs already{who} ({state / _LOCK} is locked); end it with `python -m cluster down`, or give this "
        "one a state folder of its own by XDG_STATE_HOME, and other ports"
    )
