"""The router as a process: `python -m router --config fleet.yaml`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from contracts.config import FleetConfig, load_config
from contracts.errors import SpecfleetError
from router.front import FrontLimits
from router.http.app import run_http
from router.server import run_router

__all__ = ["main"]


def main() -> int:
    """Serves until SIGINT or SIGTERM; 2 for a configuration that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m router", description="The front door and brain of a fleet.")
    parser.add_argument("--config", type=Path, required=True, metavar="FLEET.yaml")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(load_config(options.config)))
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


async def serve(config: FleetConfig) -> None:
    """All faces, until told to stop."""
    of = config.router
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = FrontLimits(
        mode=of.mode, max_draft=max(of.max_draft, 1), max_waiting=of.max_waiting, grace_s=of.client_grace_s
    )
    async with (
        run_router(
            f"{of.host}:{of.grpc_port}", limits=limits, drafter_order=list(config.drafters), max_running=of.max_running
        ) as router,
        run_http(router.front, of.host, of.http_port) as http_port,
    ):
        print(f"router serves gRPC on {of.host}:{router.port} and HTTP on {of.host}:{http_port}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
