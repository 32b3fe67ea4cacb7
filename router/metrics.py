"""The counters in the text form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from router.front import Front

__all__ = ["metrics_text"]

Labels = Mapping[str, str]


def metrics_text(front: Front) -> str:
    """Everything the router counts, under the names that users of speculative decoding know."""
    scheduler, figures = front.scheduler, front.scheduler.figures
    pool = scheduler.pool
    num_steps = sum(figures.rounds_by_frontier.values())
    by_drafter = [
        ({"drafter": offer.drafter, "kind": offer.kind}, pool.figures(offer.drafter)) for offer in pool.offers
    ]
    plain: Labels = {}
    lines: list[str] = []
    lines += _metric(
        "spec_decode_num_drafts_total", "counter", [(plain, num_steps - figures.rounds_by_frontier.get(0, 0))]
    )
    lines += _metric(
        "spec_decode_num_draft_tokens_total", "counter", [(of, f.num_checked_tokens) for of, f in by_drafter]
    )
    lines += _metric(
        "spec_decode_num_accepted_tokens_total", "counter", [(of, f.num_accepted_tokens) for of, f in by_drafter]
    )
    lines += _metric(
        "spec_decode_num_accepted_tokens_per_pos_total",
        "counter",
        [({"position": str(position)}, count) for position, count in sorted(figures.accepted_by_position.items())],
    )
    lines += _metric(
        "specfleet_rounds_by_frontier_total",
        "counter",
        [({"nodes": str(nodes)}, count) for nodes, count in sorted(figures.rounds_by_frontier.items())],
    )
    lines += _metric("specfleet_rounds_total", "counter", [(plain, figures.num_rounds)])
    lines += _metric("specfleet_rounds_unasked_total", "counter", [(plain, figures.num_unasked)])
    lines += _metric("specfleet_rows_pruned_total", "counter", [(plain, figures.num_rows_pruned)])
    lines += _metric("specfleet_tokens_total", "counter", [(plain, figures.num_tokens)])
    lines += _metric("specfleet_requests_total", "counter", [(plain, front.num_requests)])
    lines += _metric("specfleet_stale_messages_total", "counter", [(plain, figures.num_stale + pool.num_stale)])
    lines += _metric(
        "specfleet_drafter_offences_total",
        "counter",
        [({"kind": kind}, count) for kind, count in pool.quarantine.num_by_kind.items()],
    )
    lines += _metric("specfleet_drafter_quarantines_total", "counter", [(plain, pool.quarantine.num_begun)])
    lines += _metric("specfleet_drafters_quarantined", "gauge", [(plain, len(pool.quarantine.held()))])
    lines += _metric("specfleet_restarts_total", "counter", [(plain, figures.num_restarts)])
    lines += _metric("specfleet_router_busy_seconds_total", "counter", [(plain, front.loop.busy_s)])
    lines += _metric("specfleet_verifier_idle_share", "gauge", [(plain, scheduler.idle_share())])
    recorder = front.recorder
    lines += _metric("specfleet_router_leads", "gauge", [(plain, int(front.leadership.leads))])
    lines += _metric("specfleet_store_lost", "gauge", [(plain, int(recorder.is_store_lost))])
    lines += _metric("specfleet_journal_requests_lost_total", "counter", [(plain, recorder.num_lost)])
    lines += _metric("num_requests_running", "gauge", [(plain, len(scheduler.running))])
    lines += _metric("num_requests_waiting", "gauge", [(plain, len(scheduler.waiting))])
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    lines = [f"# TYPE {name} {kind}"]
    for labels, value in samples:
        written = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"{name}{{{written}}} {value}" if written else f"{name} {value}")
    return lines
