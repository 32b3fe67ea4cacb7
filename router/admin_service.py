"""The gRPC face to operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import median
from typing import Any

from contracts.clock import Clock
from contracts.errors import NotFound, shown
from contracts.types import DrafterId
from router.fleet_service import FleetService
from router.front import Front
from router.grpc_errors import answers, streams
from router.metrics.exposition import metrics_text
from router.orders import DrafterOffer
from router.scheduler import Scheduler
from router.timeline import Timeline
from router.wire import identity_to_wire
from specfleet import __version__
from specfleet.v1 import admin_pb2 as pb
from specfleet.v1 import admin_pb2_grpc

__all__ = ["AdminService"]


class AdminService(admin_pb2_grpc.AdminServicer):
    """Reads what the scheduler counts; changes nothing but by draining."""

    def __init__(self, front: Front, fleet: FleetService, timeline: Timeline, clock: Clock) -> None:
        self._front, self._fleet, self._timeline, self._clock = front, fleet, timeline, clock
        self._began_s = clock.now_s()

    @property
    def _scheduler(self) -> Scheduler:
        return self._front.scheduler

    @answers
    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        scheduler, figures = self._scheduler, self._scheduler.figures
        span_s = self._clock.now_s() - figures.recent[0][0] if figures.recent else 0.0
        num_steps = sum(figures.rounds_by_frontier.values())
        return pb.StatusResponse(
            version=__version__,
            uptime_s=self._clock.now_s() - self._began_s,
            model=identity_to_wire(self._front.offer.model) if self._front.offer is not None else None,
            verifier=self._verifier(),
            drafters=self._drafters(),
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_requests=self._front.num_requests,
            num_tokens=figures.num_tokens,
            tokens_per_s=sum(tokens for _, _, tokens in figures.recent) / span_s if span_s > 0.0 else 0.0,
            mean_acceptance_length=1.0 + figures.num_accepted_tokens / num_steps if num_steps else 0.0,
            num_rounds=figures.num_rounds,
            num_stale_messages=figures.num_stale + scheduler.pool.num_stale,
            is_draining=self._front.is_draining,
            rounds_by_frontier=figures.rounds_by_frontier,
        )

    @answers
    async def Drafters(self, request: pb.DraftersRequest, context: Any) -> pb.DraftersResponse:
        return pb.DraftersResponse(drafters=self._drafters())

    @answers
    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        if request.worker and request.worker not in self._fleet.streams:
            known = ", ".join(sorted(self._fleet.streams)) or "none"
            raise NotFound(f"worker {shown(request.worker)} is not in the fleet; workers are {known}")
        if not request.worker:
            self._front.is_draining = True
            return pb.DrainResponse(workers=sorted(self._fleet.streams))
        return pb.DrainResponse(workers=self._fleet.drain(request.worker))

    @answers
    async def Metrics(self, request: pb.MetricsRequest, context: Any) -> pb.MetricsResponse:
        return pb.MetricsResponse(text=await metrics_text(self._front))

    @streams
    async def Timeline(self, request: pb.TimelineRequest, context: Any) -> AsyncIterator[pb.TimelineResponse]:
        async for spans in self._timeline.watch():
            yield pb.TimelineResponse(
                spans=[
                    pb.TimelineResponse.Span(
                        process=span.process,
                        name=span.name,
                        began_s=span.began_s,
                        ended_s=span.ended_s,
                        round=span.round,
                        sequences=span.sequences,
                        num_rows=span.num_rows,
                    )
                    for span in spans
                ]
            )

    def _verifier(self) -> pb.VerifierStatus | None:
        verifier = self._scheduler.verifier
        if verifier is None:
            return pb.VerifierStatus(state="away")
        recent = self._scheduler.figures.recent
        return pb.VerifierStatus(
            name=verifier.offer.name,
            state="draining" if self._front.is_draining else "serving",
            num_ranks=verifier.offer.num_ranks,
            device=verifier.offer.device,
            idle_share=self._scheduler.idle_share(),
            num_blocks=verifier.offer.num_blocks,
            num_free_blocks=verifier.num_free_blocks,
            round_s=median(busy_s for _, busy_s, _ in recent) if recent else 0.0,
        )

    def _drafters(self) -> list[pb.DrafterStatus]:
        """Those in the fleet, and those that are kept out for a while."""
        pool = self._scheduler.pool
        inside = [self._drafter(offer) for offer in pool.offers]
        outside = pool.quarantine.held().keys() - {drafter.name for drafter in inside}
        return inside + [pb.DrafterStatus(name=name, state="quarantined") for name in sorted(outside)]

    def _drafter(self, offer: DrafterOffer) -> pb.DrafterStatus:
        drafter: DrafterId = offer.drafter
        pool, roster = self._scheduler.pool, self._scheduler.roster
        figures = pool.figures(drafter)
        uptime_s = max(self._clock.now_s() - figures.joined_s, 1e-9)
        return pb.DrafterStatus(
            name=drafter,
            kind=offer.kind,
            state="drafting" if pool.num_following(drafter) else "idle",
            device=offer.device,
            num_sequences=pool.num_following(drafter),
            num_draft_tokens=figures.num_checked_tokens,
            num_accepted_tokens=figures.num_accepted_tokens,
            step_s=roster.step_s(drafter),
            idle_share=max(1.0 - figures.busy_s / uptime_s, 0.0),
            calibration_error=roster.calibrator.report(drafter).expected_calibration_error,
            probe_acceptance=self._fleet.probes.acceptance.get(drafter),
        )
