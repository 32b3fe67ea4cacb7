"""A worker inside a process of Ray's: its node runs in a thread of its own, and whoever hosts it can ask how it is.

The same node as in the processes of `python -m workers.verifier` and `python -m workers.drafter`; only who starts it,
and who is told when it ends, differs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import grpc.aio

from contracts.config import DrafterConfig, EngineConfig, VerifierConfig
from contracts.errors import InvalidArgument, SpecfleetError
from specfleet.errors import InvalidRequest
from workers.process import Worker, serve

__all__ = ["Hosted", "HostedState", "drafter", "verifier"]

logger = logging.getLogger(__name__)

Phase = Literal["loading", "serving", "joined", "left", "refused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedState:
    """How a hosted node is; `version` counts the changes. One that serves dials the router until it has joined."""

    version: int
    phase: Phase
    reason: str = ""

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for another process."""
        return asdict(self)


class Hosted:
    """One node: loads, serves, and ends by itself or when told to `leave`."""

    def __init__(
        self, make: Callable[[], AbstractContextManager[Worker]], *, router: str, tls: Path | None = None
    ) -> None:
        self._make, self._router, self._tls = make, router, tls
        self.worker: Worker | None = None
        """Once it is loaded."""
        self._changed = threading.Condition()
        self._state = HostedState(version=0, phase="loading")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        threading.Thread(target=self._run, daemon=True, name="node").start()

    def state(self, *, after: int, timeout_s: float) -> HostedState:
        """The first state with a version over `after`, or what is when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._state.version > after, timeout=timeout_s)
            return self._state

    def leave(self) -> None:
        """Tells the node to finish what it is at and go; one that is loading still will go when it is loaded."""
        with self._changed:
            if self._loop is None:
                self._stop.set()
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop.set)

    def _run(self) -> None:
        try:
            with self._make() as worker:
                self.worker = worker
                asyncio.run(self._serve(worker))
            self._turn("left")
        except SpecfleetError as error:
            logger.error("%s", error)
            self._turn("refused" if _is_final(error) else "failed", str(error))
        except InvalidRequest as error:
            logger.error("%s", error.message)
            self._turn("refused", error.message)
        except Exception as error:
            logger.exception("the node failed")
            self._turn("failed", f"{type(error).__name__}: {error}")

    async def _serve(self, worker: Worker) -> None:
        with self._changed:
            self._loop = asyncio.get_running_loop()
        self._turn("serving")
        await serve(worker, router=self._router, stop=self._stop, tls=self._tls, on_joined=self._join)

    def _join(self, is_joined: bool) -> None:
        self._turn("joined" if is_joined else "serving")

    def _turn(self, phase: Phase, reason: str = "") -> None:
        with self._changed:
            self._state = HostedState(version=self._state.version + 1, phase=phase, reason=reason)
            self._changed.notify_all()


@contextmanager
def verifier(name: str, engine: EngineConfig, config: VerifierConfig) -> Iterator[Worker]:
    """The target with all its ranks, its steps measured, ready to join."""
    from workers.verifier.hosting import hosted  # here, for it loads torch

    with hosted(name, engine, config) as node:
        yield node


@contextmanager
def drafter(name: str, config: DrafterConfig) -> Iterator[Worker]:
    """A drafter, its speed measured, ready to join."""
    from workers.drafter_node.hosting import hosted

    with hosted(name, config) as node:
        yield node


def _is_final(error: SpecfleetError) -> bool:
    """Whether it would be the same the next time.

    That a name is taken is not: where one keeps all processes of a fleet, it is taken by the predecessor, which the
    router has not given up yet.
    """
    cause = error.__cause__
    is_taken = isinstance(cause, grpc.aio.AioRpcError) and cause.code() == grpc.StatusCode.ALREADY_EXISTS
    return isinstance(error, InvalidArgument) and not is_taken
