"""Workers inside a process of Ray's: each node runs in a thread of its own, and whoever hosts it can ask how it is.

The same nodes as in the processes of `python -m workers.verifier` and `python -m workers.drafter`; only who starts
them, and who is told when they end, differs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from contracts.config import DrafterConfig, EngineConfig, VerifierConfig
from contracts.errors import SpecfleetError
from specfleet.errors import InvalidRequest
from workers.process import Worker, is_final, serve

__all__ = ["ENDED", "Hosted", "HostedState", "Shared", "drafter", "verifier"]

logger = logging.getLogger(__name__)

ENDED = ("left", "refused", "failed")
"""Phases that nothing follows."""
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


class Shared:
    """What the nodes of a process share: a turn to load, for what a node measures as it loads is not to be about
    another's loading; and one event loop for all that they send, in a thread of its own."""

    def __init__(self) -> None:
        self.loading = threading.Lock()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="wire")
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Until it is through; from any thread but the loop's."""
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """When all nodes have ended."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Hosted:
    """One node: loads, serves, and ends by itself or when told to `leave`."""

    def __init__(
        self,
        make: Callable[[], AbstractContextManager[Worker]],
        *,
        shared: Shared,
        router: str,
        tls: Path | None = None,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """It loads when `wait` is through."""
        self._make, self._shared, self._router, self._tls = make, shared, router, tls
        self.worker: Worker | None = None
        """Once it is loaded."""
        self._changed = threading.Condition()
        self._state = HostedState(version=0, phase="loading")
        self._stop, self._is_leaving = asyncio.Event(), False
        threading.Thread(target=self._run, args=(wait,), daemon=True, name="node").start()

    def state(self, *, after: int, timeout_s: float) -> HostedState:
        """The first state with a version over `after`, or what is when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._state.version > after, timeout=timeout_s)
            return self._state

    def leave(self) -> None:
        """Tells the node to finish what it is at and go; one that is loading will go when it is loaded, and one that
        has not begun to will not."""
        with self._changed:
            self._is_leaving = True
        self._shared.loop.call_soon_threadsafe(self._stop.set)

    def wait_until_loaded(self) -> None:
        """Or until it is known that it never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._state.phase != "loading")

    def wait_until_ended(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._state.phase in ENDED)

    @property
    def is_dismissed(self) -> bool:
        """Whether it was told to go, or has gone."""
        with self._changed:
            return self._is_leaving or self._state.phase == "left"

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or was told to."""
        with self._changed:
            return self.is_dismissed or self._state.phase in ENDED

    def _run(self, wait: Callable[[], None]) -> None:
        wait()
        phase, reason = self._live()
        self.worker = None  # or what it was made of would stay as long as the process
        self._turn(phase, reason)

    def _live(self) -> tuple[Phase, str]:
        """How it ended, and why."""
        try:
            with ExitStack() as stack:
                with self._shared.loading:
                    if not self.is_dismissed:
                        self.worker = stack.enter_context(self._make())
                if self.worker is not None:
                    self._shared.run(self._serve(self.worker))
            return "left", ""
        except SpecfleetError as error:
            logger.error("%s", error)
            return "refused" if is_final(error) else "failed", str(error)
        except InvalidRequest as error:
            logger.error("%s", error.message)
            return "refused", error.message
        except Exception as error:
            logger.exception("the node failed")
            return "failed", f"{type(error).__name__}: {error}"

    async def _serve(self, worker: Worker) -> None:
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
