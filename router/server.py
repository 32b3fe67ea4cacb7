"""The router process: scheduler, front door and faces on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contracts.clock import Clock, SystemClock
from contracts.errors import Unavailable
from contracts.types import DrafterId
from router.admin_service import AdminService
from router.fleet_service import FleetService
from router.front import Front, FrontLimits
from router.inference_service import InferenceService
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.timeline import Timeline
from specfleet.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

__all__ = ["Router", "run_router"]

_log = logging.getLogger(__name__)
_MAX_MESSAGE = 64 * 2**20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.so_reuseport", 0),  # a second router on the port is a mistake, not a colleague
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
    fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A router that serves; `port` is where."""

    front: Front
    scheduler: Scheduler
    loop: SchedulingLoop
    timeline: Timeline
    fleet: FleetService
    port: int


@asynccontextmanager
async def run_router(
    address: str,
    *,
    limits: FrontLimits,
    drafter_order: Sequence[str] = (),
    max_running: int = 64,
    clock: Clock | None = None,
) -> AsyncIterator[Router]:
    """Serves gRPC on `address` (host:port, port 0: any) until the block is left."""
    clock = clock or SystemClock()
    timeline = Timeline()
    scheduler = Scheduler(
        clock,
        drafter_order=tuple(DrafterId(name) for name in drafter_order),
        max_running=max_running,
        on_round=timeline.verified,
    )
    loop = SchedulingLoop(scheduler, on_tick=timeline.ticked)
    front = Front(scheduler, loop, clock, limits)
    fleet = FleetService("router", scheduler, loop, front, timeline)
    server = grpc.aio.server(options=_OPTIONS)
    inference_pb2_grpc.add_InferenceServicer_to_server(InferenceService(front), server)
    admin_pb2_grpc.add_AdminServicer_to_server(AdminService(front, fleet, timeline, clock), server)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    readiness = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    reflection.enable_server_reflection([*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address}: {error}; is another router there?") from error
    await server.start()
    watcher = asyncio.create_task(_watch_readiness(front, readiness))
    _log.info("router serves gRPC on port %d", port)
    try:
        yield Router(front=front, scheduler=scheduler, loop=loop, timeline=timeline, fleet=fleet, port=port)
    finally:
        watcher.cancel()
        await readiness.enter_graceful_shutdown()
        await server.stop(grace=1.0)


async def _watch_readiness(front: Front, readiness: health.aio.HealthServicer) -> None:
    """ "" is the process; the name of the inference service is whether a request would run."""
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    await readiness.set("", serving)
    while True:
        await readiness.set(_SERVICES[0], serving if front.is_ready else not_serving)
        await asyncio.sleep(0.2)
