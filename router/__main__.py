"""The router as a process: `python -m router --config fleet.yaml`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import signal
import sys
from pathlib import Path

from contracts.clock import SystemClock
from contracts.config import FleetConfig, load_config
from contracts.config.router import host_port
from contracts.errors import SpecfleetError
from contracts.logs import settle_logs
from router.front import Front, FrontLimits
from router.http.app import run_http
from router.security.gate import Gate
from router.security.keyring import KeyRing
from router.server import run_router
from specfleet.errors import InvalidRequest
from specfleet.health import Health, health_face
from specfleet.tracing import Tracing, traced
from speculation.fusion import FusionKind

__all__ = ["main"]

_TAKEN_OVER = 3
_TELL_S = 0.2


def main() -> int:
    """Serves until SIGINT or SIGTERM; 2 for a configuration that cannot work, 3 when another router has taken over."""
    parser = argparse.ArgumentParser(prog="python -m router", description="The front door and brain of a fleet.")
    parser.add_argument("--config", type=Path, required=True, metavar="FLEET.yaml", help="the fleet's file")
    parser.add_argument(
        "--health", metavar="HOST:PORT", help="where to tell anybody whether this process lives and a request would run"
    )
    options = parser.parse_args()
    _allow_many_connections()
    try:
        settle_logs("router")
        with health_face(options.health) as health, traced("router", "router") as tracing:
            return asyncio.run(serve(load_config(options.config), health, tracing))
    except (SpecfleetError, InvalidRequest) as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2


def _allow_many_connections() -> None:
    """As many as the system lets this process have; a shell's usual limit is 1,024 files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems name a limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(config: FleetConfig, health: Health, tracing: Tracing | None) -> int:
    """All faces, until told to stop, or until another router leads; the exit status."""
    of = config.router
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = FrontLimits(mode=of.mode, max_draft=of.max_draft, max_waiting=of.max_waiting, grace_s=of.client_grace_s)
    tls, keys = config.security.tls_of("router"), config.security.keys_file
    gate = Gate(KeyRing(keys, SystemClock()) if keys is not None else None)
    async with (
        run_router(
            host_port(of.host, of.grpc_port),
            limits=limits,
            drafter_order=list(config.drafters),
            max_running=of.max_running,
            fusion=FusionKind(of.fusion) if of.fusion != "auto" else None,
            is_priced=of.drafting == "priced",
            gate=gate,
            tls=tls,
            store=config.store,
            tracing=tracing,
        ) as router,
        run_http(router.front, of.host, of.http_port, gate=gate, tls=tls) as http_port,
    ):
        grpc, http = host_port(of.host, router.port), host_port(of.host, http_port)
        print(f"router serves gRPC on {grpc} and HTTP on {http}", flush=True)
        lost = router.front.leadership.lost
        telling = asyncio.create_task(_tell(router.front, health))
        ends = [asyncio.create_task(event.wait()) for event in (stop, lost)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in (telling, *ends):
            end.cancel()
        return _TAKEN_OVER if lost.is_set() else 0


async def _tell(front: Front, health: Health) -> None:
    while True:
        health.is_ready = front.is_ready
        health.beat()
        await asyncio.sleep(_TELL_S)


if __name__ == "__main__":
    sys.exit(main())
