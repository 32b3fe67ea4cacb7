"""The life of a worker process: one thread that works, one event loop that carries messages, and how both end.

Exit status 0: it left, because it was told to; 2: it was refused, or asked for something that can never work; 1: it
failed, and starting it again is right.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio

from contracts.config import FleetConfig
from contracts.config.names import NAME_HELP, is_name
from contracts.config.router import host_port
from contracts.errors import InvalidArgument, SpecfleetError, shown
from contracts.logs import settle_logs
from specfleet.errors import InvalidRequest
from specfleet.health import Health, health_face
from specfleet.v1 import fleet_pb2
from workers.inbox import Inbox
from workers.link import Arrival, Link, delays_s

__all__ = [
    "Guest",
    "Worker",
    "checked_name",
    "entry",
    "is_final",
    "parser",
    "router_of",
    "run_worker",
    "serve",
    "serve_with_guests",
]

logger = logging.getLogger(__name__)

_LEAVE_S = 2.0
_BEAT_S = 1.0
# After this time a thread that computes in Python lets the other go on. With the default, 5 ms, one answer in ten waits
# about that long for its turn on the wire (a round outside its step, 90th percentile: 3.5 to 5.2 ms; so: 1.0 ms).
_SWITCH_S = 0.0001
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker(Protocol):
    """What works in the thread."""

    @property
    def name(self) -> str: ...

    @property
    def hello(self) -> fleet_pb2.FromWorker:
        """How it introduces itself, every time."""
        ...

    @property
    def num_sequences(self) -> int:
        """That it has open."""
        ...

    @property
    def num_stale(self) -> int:
        """Messages that came too late for anything."""
        ...

    def run(self, inbox: Inbox[Arrival]) -> None:
        """Does what arrives; returns when the inbox is closed, or when it was told to drain and is through."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A worker that lives in another's process, and the certificates with which it dials."""

    worker: Worker
    tls: Path | None


def entry(kind: str, main: Callable[[argparse.Namespace, Health], None], arguments: argparse.Namespace) -> int:
    """Runs a worker's command and says what came of it; the exit status."""
    for number in _STOP_SIGNALS:  # until the event loop takes over: loading a model may take long
        signal.signal(number, _leave_at_once)
    try:
        settle_logs(kind)
        with health_face(arguments.health) as health:
            main(arguments, health)
    except InvalidRequest as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1
    return 0


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """What the commands of all workers share."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    made.add_argument("--config", required=True, type=Path, metavar="FLEET.yaml", help="the fleet's configuration")
    made.add_argument("--router", metavar="HOST:PORT", help="where the router is; default: as the configuration says")
    made.add_argument(
        "--health", metavar="HOST:PORT", help="where to tell anybody whether this process lives and is in the fleet"
    )
    return made


def checked_name(name: str) -> str:
    """A worker's name; refused where it cannot be one."""
    if not is_name(name):
        raise InvalidArgument(f"the worker's name is {shown(name)}; it must be {NAME_HELP}")
    return name


def router_of(arguments: argparse.Namespace, config: FleetConfig) -> str:
    """The address to dial."""
    return str(arguments.router or host_port(config.router.host, config.router.grpc_port))


def run_worker(
    worker: Worker, health: Health, *, router: str, tls: Path | None = None, guests: Sequence[Guest] = ()
) -> None:
    """Serves until a signal says otherwise."""

    def join(is_joined: bool) -> None:
        health.is_ready = is_joined

    async def run() -> None:
        stop = asyncio.Event()
        for number in _STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        beating = asyncio.create_task(_beat(health))
        try:
            await serve_with_guests(worker, guests, router=router, stop=stop, tls=tls, on_joined=join)
        finally:
            beating.cancel()

    asyncio.run(run())


async def serve_with_guests(
    worker: Worker,
    guests: Sequence[Guest],
    *,
    router: str,
    stop: asyncio.Event,
    tls: Path | None = None,
    on_joined: Callable[[bool], None] | None = None,
) -> None:
    """As `serve`. Guests are there as long as the worker is, at most: one that fails ends all, to be started again with
    them, and one that is refused or told to leave is missed by nobody."""
    visits = [asyncio.create_task(_visit(guest, router, stop)) for guest in guests]
    try:
        await serve(worker, router=router, stop=stop, tls=tls, on_joined=on_joined)
    finally:
        stop.set()
        ends = await asyncio.gather(*visits, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def serve(
    worker: Worker,
    *,
    router: str,
    stop: asyncio.Event,
    tls: Path | None = None,
    on_joined: Callable[[bool], None] | None = None,
) -> None:
    """Serves until `stop`, or until the worker is refused, fails, or was told to drain. `on_joined` hears whether it is
    in the fleet, each time that this changes.

    Whatever the end, the step at hand is finished and what it brought is sent, if there is still someone to send it to.
    """
    sys.setswitchinterval(_SWITCH_S)
    inbox: Inbox[Arrival] = Inbox()
    link = Link(router=router, name=worker.name, hello=worker.hello, inbox=inbox, tls=tls, on_joined=on_joined)
    with ThreadPoolExecutor(1, thread_name_prefix=worker.name) as threads:
        working = asyncio.get_running_loop().run_in_executor(threads, worker.run, inbox)
        dialling = asyncio.create_task(link.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            ends: set[asyncio.Future[Any]] = {working, dialling, stopping}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            inbox.close()
            link.unblock()
            await asyncio.wait({working})
            if link.leave():
                await asyncio.wait({dialling}, timeout=_LEAVE_S)
            dialling.cancel()
            results = await asyncio.gather(working, dialling, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def is_final(error: SpecfleetError) -> bool:
    """Whether it would be the same the next time.

    That a name is taken is not: where one keeps all processes of a fleet, it is taken by the predecessor, which the
    router has not given up yet.
    """
    cause = error.__cause__
    is_taken = isinstance(cause, grpc.aio.AioRpcError) and cause.code() == grpc.StatusCode.ALREADY_EXISTS
    return isinstance(error, InvalidArgument) and not is_taken


async def _visit(guest: Guest, router: str, stop: asyncio.Event) -> None:
    """Serves a guest; `stop` is for all of the process, and set where a guest fails."""
    pauses_s = delays_s(random.Random())
    while not stop.is_set():
        try:
            await serve(guest.worker, router=router, stop=stop, tls=guest.tls)
            return
        except InvalidArgument as error:
            if is_final(error):
                logger.error("%s is refused, and stays so: %s", guest.worker.name, error)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), next(pauses_s))
        except BaseException:
            stop.set()
            raise


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(_BEAT_S)


def _leave_at_once(number: int, frame: object) -> NoReturn:
    sys.exit(0)
