"""The router as a process: its lease, its journal, its one thread, its memory."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from router.front import Front
from router.metrics.families import counter, gauge, histogram
from specfleet import __version__

__all__ = ["process"]


def process(front: Front) -> Iterator[Metric]:
    """`process_...` is what the library tells of every process, on Linux."""
    recorder = front.recorder
    model = front.offer.model.name if front.offer is not None else ""
    yield gauge("specfleet_info", "What this is.", [({"version": __version__, "model": model}, 1)])
    yield gauge("specfleet_router_leads", "Whether this router leads.", int(front.leadership.leads))
    yield gauge("specfleet_router_ready", "Whether a request would begin to run now.", int(front.is_ready))
    yield histogram("specfleet_router_tick_cpu_seconds", "CPU time of a tick of the scheduler.", front.loop.tick_s)
    yield gauge("specfleet_store_lost", "Whether the store was away when last asked.", int(recorder.is_store_lost))
    yield gauge("specfleet_journal_lag_seconds", "Age of the oldest news that is not written down.", recorder.lag_s)
    yield counter("specfleet_journal_errors_total", "Times that the store did not answer.", recorder.num_errors)
    yield counter(
        "specfleet_journal_requests_lost_total",
        "Requests whose end could not be written down in time.",
        recorder.num_lost,
    )
    yield from ProcessCollector(registry=None).collect()
