"""What each drafter gave and cost, under the names that users of speculative decoding know."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from router.drafter_pool import DrafterFigures
from router.metrics.families import Labels, Samples, counter, gauge, histogram
from router.scheduler import Scheduler

__all__ = ["drafters"]


def drafters(scheduler: Scheduler) -> Iterator[Metric]:
    """Of those that are connected, since they joined. A node bears one drafter's name, the surest one's, so that sums
    over drafters are the fleet's; "said" counts a node for everyone who said it.
    """
    pool, roster = scheduler.pool, scheduler.roster
    known: list[tuple[Labels, DrafterFigures]] = [
        ({"drafter": offer.drafter, "kind": offer.kind}, pool.figures(offer.drafter)) for offer in pool.offers
    ]

    def each(value: Callable[[DrafterFigures], float]) -> Samples:
        return [(labels, value(figures)) for labels, figures in known]

    yield counter(
        "spec_decode_num_drafts_total",
        "Frontiers with drafts that passes checked, by the drafter of the first node.",
        each(lambda of: of.num_credited_drafts),
    )
    yield counter(
        "spec_decode_num_draft_tokens_total",
        "Draft tokens that passes checked, by the drafter that was surest of each.",
        each(lambda of: of.num_credited_tokens),
    )
    yield counter(
        "spec_decode_num_accepted_tokens_total",
        "Of these, those that the target decided too.",
        each(lambda of: of.credited_by_position.total()),
    )
    yield counter(
        "spec_decode_num_accepted_tokens_per_pos_total",
        "The same by position in the draft, from 0.",
        [
            ({**labels, "position": str(position)}, count)
            for labels, of in known
            for position, count in sorted(of.credited_by_position.items())
        ],
    )
    yield counter("specfleet_drafter_nodes_total", "Draft nodes that it sent.", each(lambda of: of.num_draft_tokens))
    yield counter(
        "specfleet_drafter_said_tokens_total",
        "Draft tokens checked that it said, whoever else did.",
        each(lambda of: of.num_checked_tokens),
    )
    yield counter(
        "specfleet_drafter_said_accepted_tokens_total",
        "Of these, those that the target decided too.",
        each(lambda of: of.num_accepted_tokens),
    )
    yield histogram(
        "specfleet_drafter_first_node_seconds",
        "Time from a verdict to its first node of use below it; 0 where run-ahead had one there.",
        [(labels, of.first_node_s) for labels, of in known],
    )
    yield counter(
        "specfleet_drafter_late_total",
        "Verdicts after which it had nothing of use until the next one.",
        each(lambda of: of.num_late),
    )
    yield counter("specfleet_drafter_busy_seconds_total", "Time in which it drafted.", each(lambda of: of.busy_s))
    yield counter("specfleet_drafter_steps_total", "Steps of its model.", each(lambda of: of.num_steps))
    yield gauge(
        "specfleet_drafter_step_seconds",
        "What a step of one sequence takes just now.",
        [({"drafter": offer.drafter, "kind": offer.kind}, roster.step_s(offer.drafter)) for offer in pool.offers],
    )
    yield gauge(
        "specfleet_drafter_sequences",
        "Sequences that it has open.",
        [({"drafter": offer.drafter, "kind": offer.kind}, pool.num_following(offer.drafter)) for offer in pool.offers],
    )
    yield gauge(
        "specfleet_drafter_calibration_error",
        "Expected calibration error of its confidences, lately.",
        [
            (
                {"drafter": offer.drafter, "kind": offer.kind},
                roster.calibrator.report(offer.drafter).expected_calibration_error,
            )
            for offer in pool.offers
        ],
    )
    yield gauge("specfleet_drafters", "Drafters in the fleet.", len(known))
    yield gauge("specfleet_drafters_quarantined", "Drafters that are kept out now.", len(pool.quarantine.held()))
    yield counter("specfleet_drafter_quarantines_total", "Times that a drafter was put out.", pool.quarantine.num_begun)
    yield counter(
        "specfleet_drafter_offences_total",
        "What drafters did that no honest one does.",
        [({"offence": kind}, count) for kind, count in pool.quarantine.num_by_kind.items()],
    )
    yield counter(
        "specfleet_stale_messages_total",
        "Messages about an epoch or round that is over; dropped.",
        [({"sender": "verifier"}, scheduler.figures.num_stale), ({"sender": "drafter"}, pool.num_stale)],
    )
