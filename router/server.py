"""The router process: scheduler, front door and faces on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contracts.clock import Clock, SystemClock
from contracts.config import StoreConfig
from contracts.errors import Unavailable
from contracts.types import DrafterId
from router.admin_service import AdminService
from router.fleet_service import FleetService
from router.front import Front, FrontLimits
from router.grpc_parsing import GrpcParsing
from router.inference_service import InferenceService
from router.journal.leadership import Leadership
from router.journal.learned import Learned
from router.journal.opening import open_journal
from router.journal.recorder import Recorder
from router.leading import leading
from router.memories import DrafterMemories
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.security.gate import Gate
from router.security.grpc_gate import GrpcGate
from router.security.quotas import Quotas
from router.security.tls import grpc_credentials
from router.timeline import Timeline
from specfleet.tracing import Tracing
from specfleet.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)
from speculation.fusion import FusionKind

__all__ = ["Router", "run_router"]

_log = logging.getLogger(__name__)
_MAX_MESSAGE = 64 * 2**20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.so_reuseport", 0),  # a second router on the port is a mistake, not a colleague
    # Who is gone without a word is noticed in eight seconds. The two limits are for two ways to be gone: nothing
    # confirms what was sent (a dead machine or link), or nothing answers (a process that stands still).
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),  # for those who connect and say nothing
)
_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
    fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name,
)
# For whoever gets in at all: whether the fleet is well, and what can be asked.
_OPEN = (health.SERVICE_NAME, reflection.SERVICE_NAME)


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
    fusion: FusionKind | None = None,
    is_priced: bool = True,
    clock: Clock | None = None,
    gate: Gate | None = None,
    tls: Path | None = None,
    store: StoreConfig | None = None,
    tracing: Tracing | None = None,
) -> AsyncIterator[Router]:
    """Serves gRPC on `address` (host:port, port 0: any) until the block is left. `gate` is who may call what; `tls` the
    folder with the router's certificate, without which nothing is encrypted; `store` where it keeps its
    journal, without which nothing outlives it.
    """
    clock, gate = clock or SystemClock(), gate or Gate()
    store = store or StoreConfig(url="memory")
    async with open_journal(store, clock) as journal:
        timeline = Timeline()
        scheduler = Scheduler(
            clock,
            drafter_order=tuple(DrafterId(name) for name in drafter_order),
            max_running=max_running,
            fusion=fusion,
            is_priced=is_priced,
            on_round=timeline.verified,
        )
        loop = SchedulingLoop(scheduler, on_tick=timeline.ticked)
        quotas = _quotas(gate, clock)
        scheduler.waiting.weight_of = quotas.weight
        leadership = Leadership(journal, lease_s=store.lease_s, continues_when_cut_off=store.when_cut_off == "continue")
        recorder = Recorder(journal, leadership, store, clock)
        learned = Learned(scheduler.roster, journal, leadership, clock, every_s=store.snapshot_s)
        memories = DrafterMemories(journal, leadership, clock, every_s=store.snapshot_s)
        front = Front(scheduler, loop, clock, limits, recorder=recorder, quotas=quotas, tracing=tracing)
        front.figures.turned_away = gate.turned_away
        fleet = FleetService("router", scheduler, loop, front, timeline, memories)
        server = grpc.aio.server(options=_OPTIONS, interceptors=[GrpcGate(gate, open_services=_OPEN), GrpcParsing()])
        inference_pb2_grpc.add_InferenceServicer_to_server(InferenceService(front), server)
        admin_pb2_grpc.add_AdminServicer_to_server(AdminService(front, fleet, timeline, clock), server)
        fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
        readiness = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
        reflection.enable_server_reflection([*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        try:
            port = (
                server.add_insecure_port(address)
                if tls is None
                else server.add_secure_port(address, grpc_credentials(tls))
            )
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {address}: {error}; is another router there?") from error
        async with leading(front, leadership, recorder, learned, memories):
            await server.start()
            watcher = asyncio.create_task(_watch_readiness(front, readiness))
            _log.info("router serves gRPC on port %d", port)
            try:
                yield Router(front=front, scheduler=scheduler, loop=loop, timeline=timeline, fleet=fleet, port=port)
            finally:
                watcher.cancel()
                await readiness.enter_graceful_shutdown()
                await server.stop(grace=1.0)


def _quotas(gate: Gate, clock: Clock) -> Quotas:
    """Where there are keys there are tenants, and limits."""
    if (keys := gate.keys) is None:
        return Quotas(clock)
    return Quotas(clock, keys.limits, is_shared=lambda: keys.has_many_tenants)


async def _watch_readiness(front: Front, readiness: health.aio.HealthServicer) -> None:
    """ "" is the process; the name of the inference service is whether a request would run."""
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    await readiness.set("", serving)
    while True:
        await readiness.set(_SERVICES[0], serving if front.is_ready else not_serving)
        await asyncio.sleep(0.2)
