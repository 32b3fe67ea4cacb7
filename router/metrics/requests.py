"""What clients met with."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from contracts.errors import PermissionDenied, Unauthenticated
from router.answer import Reason
from router.front import Front
from router.metrics.families import counter, gauge, histogram

__all__ = ["requests"]


def requests(front: Front) -> Iterator[Metric]:
    """A request for several choices is one request, and as many that run, wait and finish."""
    scheduler, figures = front.scheduler, front.figures
    yield gauge("specfleet_requests_running", "Choices that are computed.", len(scheduler.running))
    yield gauge("specfleet_requests_waiting", "Choices that wait for their turn.", len(scheduler.waiting))
    yield gauge(
        "specfleet_requests_waiting_limit",
        "As many may wait; what comes then is refused.",
        front.admission.limits.max_waiting,
    )
    yield counter("specfleet_requests_total", "Requests that were let in.", front.num_requests)
    yield counter(
        "specfleet_requests_refused_total",
        "Requests that were not let in, by the kind of error.",
        [({"reason": reason}, count) for reason, count in sorted(figures.refused.items())],
    )
    yield counter(
        "specfleet_calls_refused_total",
        "Calls that were turned away for their key or certificate, by the kind of error.",
        [({"reason": of.__name__}, figures.turned_away[of.__name__]) for of in (Unauthenticated, PermissionDenied)],
    )
    yield counter(
        "specfleet_requests_finished_total",
        "Choices that ended, by why.",
        [({"reason": reason.value}, figures.finished[reason]) for reason in Reason],
    )
    yield histogram(
        "specfleet_request_queue_time_seconds", "Time that a choice waited for its turn.", scheduler.figures.queue_s
    )
    yield histogram(
        "specfleet_time_to_first_token_seconds", "Time from a request to its first token.", figures.first_token_s
    )
    yield histogram(
        "specfleet_request_time_per_output_token_seconds",
        "Of each answer, the mean time between two tokens.",
        figures.token_s,
    )
    yield histogram("specfleet_e2e_request_latency_seconds", "Time from a request to its end.", figures.request_s)
