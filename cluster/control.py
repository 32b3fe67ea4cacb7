"""How the other commands talk to the fleet that runs: one line of JSON each way, on a socket of its user."""

from __future__ import annotations

import json
import queue
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.errors import SpecfleetError, Unavailable, shown

__all__ = ["Command", "commands", "order"]

_MAX_LINE = 2**20
_READ_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What was ordered; whoever carries it out sets `answer` to a sentence, or to the error that it is refused with."""

    do: str
    name: str
    config: Any
    answer: Future[str] = field(default_factory=Future)


@contextmanager
def commands(path: Path) -> Iterator[queue.SimpleQueue[Command]]:
    """The commands that arrive at this socket, until the block is left. Those without answer by then are refused."""
    arrived = queue.SimpleQueue[Command]()
    taken, is_ending, turn = list[Command](), False, threading.Lock()

    def take(command: Command) -> None:
        with turn:
            if is_ending:
                _refuse(command)
            else:
                taken.append(command)
                arrived.put(command)

    class Handler(socketserver.StreamRequestHandler):
        timeout = _READ_S

        def handle(self) -> None:
            try:
                told = json.loads(self.rfile.readline(_MAX_LINE))
                command = Command(do=str(told["do"]), name=str(told["name"]), config=told["config"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._say({"error": f"this is no command: {shown(str(error))}"})
                return
            take(command)
            try:
                self._say({"done": command.answer.result()})
            except SpecfleetError as error:
                self._say({"error": str(error)})

        def _say(self, answer: dict[str, str]) -> None:
            with suppress(OSError):  # whoever asked is gone
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    path.unlink(missing_ok=True)
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        server.daemon_threads = False  # whoever is answered last has the answer before the process goes
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True, name="control").start()
        try:
            yield arrived
        finally:
            server.shutdown()
            with turn:
                is_ending = True
            for command in taken:
                if not command.answer.done():
                    _refuse(command)


def _refuse(command: Command) -> None:
    command.answer.set_exception(Unavailable("the fleet is ending; start it again first"))


def order(path: Path, do: str, *, name: str = "", config: Any = None, patience_s: float) -> str:
    """What the running fleet answers; its refusal is raised."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(patience_s)
            connection.connect(str(path))
            connection.sendall(json.dumps({"do": do, "name": name, "config": config}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline(_MAX_LINE) or b'{"error": "it ended without an answer"}')
    except OSError as error:
        raise Unavailable(f"the fleet does not answer at {path}: {error}") from error
    if "error" in answer:
        raise Unavailable(f"the fleet refused to {do} {name}: {answer['error']}".replace("  ", " "))
    return str(answer["done"])
