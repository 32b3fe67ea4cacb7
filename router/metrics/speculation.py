"""What rounds, trees and the verifier did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric

from router.metrics.families import counter, gauge, histogram
from router.metrics.figures import Fallback
from router.metrics.histogram import NUM_NODES, buckets_of
from router.modes import MODES
from router.scheduler import Scheduler
from speculation.manner import Manner

__all__ = ["speculation"]

_MOST_DRAFTERS = max(parts.max_drafters for parts in MODES.values())  # of one sequence


def speculation(scheduler: Scheduler) -> Iterator[Metric]:
    """Of the fleet as a whole; `drafters.py` has what each drafter did."""
    figures = scheduler.figures
    yield counter("specfleet_tokens_total", "Tokens decided by the target.", figures.num_tokens)
    yield counter("specfleet_rounds_total", "Passes of the target.", figures.num_rounds)
    yield counter("specfleet_rows_total", "Rows that passes of the target computed.", figures.num_rows)
    yield counter("specfleet_rows_pruned_total", "Rows that left a pass early.", figures.num_rows_pruned)
    yield counter("specfleet_rounds_unasked_total", "Passes that the verifier began by itself.", figures.num_unasked)
    yield histogram(
        "specfleet_frontier_nodes",
        "Draft nodes that a sequence had checked by a pass; 0 is decoding without drafts.",
        buckets_of(figures.rounds_by_frontier, NUM_NODES),
    )
    yield counter(
        "specfleet_fallbacks_total",
        "Times that a sequence that speculates went into a pass without drafts.",
        [({"reason": reason.value}, figures.fallbacks[reason]) for reason in Fallback],
    )
    yield counter(
        "specfleet_reroots_total",
        "Verdicts that moved a tree's root, by whether a node was rejected and whether a subtree was ready below.",
        [
            ({"missed": str(missed).lower(), "ready": str(ready).lower()}, figures.reroots[missed, ready])
            for missed in (False, True)
            for ready in (False, True)
        ],
    )
    yield counter(
        "specfleet_reroot_nodes_total",
        "Nodes of trees when the root moved, by what became of them; accepted ones are neither.",
        [({"fate": "survived"}, figures.num_survived), ({"fate": "dropped"}, figures.num_dropped)],
    )
    yield histogram("specfleet_round_seconds", "Time of a pass in the verifier.", figures.round_s)
    yield histogram(
        "specfleet_draft_wait_seconds",
        "Time that a round was held back for drafts that were due; 0 where it was not.",
        figures.draft_wait_s,
    )
    manners = Counter(sequence.manner.value for sequence in scheduler.running.values() if sequence.parts.max_drafters)
    yield gauge(
        "specfleet_speculating_sequences",
        "Running sequences in a mode that speculates, by the manner that pays now.",
        [({"manner": manner.value}, manners[manner.value]) for manner in Manner],
    )
    at_work = Counter(len(s.drafting.drafters) for s in scheduler.running.values() if s.parts.max_drafters)
    yield gauge(
        "specfleet_sequences_by_drafters",
        "Running sequences in a mode that speculates, by how many drafters draft for them now.",
        [({"drafters": str(number)}, at_work[number]) for number in range(_MOST_DRAFTERS + 1)],
    )
    yield from _verifier(scheduler)


def _verifier(scheduler: Scheduler) -> Iterator[Metric]:
    figures, verifier = scheduler.figures, scheduler.verifier
    yield gauge("specfleet_verifier_up", "Whether a verifier is in the fleet.", int(verifier is not None))
    yield counter("specfleet_verifier_joins_total", "Times that a verifier joined.", figures.num_joins)
    yield counter("specfleet_verifier_busy_seconds_total", "Time in which it computed.", figures.verifier_busy_s)
    yield counter(
        "specfleet_verifier_idle_seconds_total",
        "Time in which it computed nothing though sequences ran: waiting for drafts, the router or the network.",
        figures.verifier_idle_s,
    )
    yield gauge("specfleet_verifier_idle_share", "Idle part of the time of the last 64 rounds.", scheduler.idle_share())
    yield counter(
        "specfleet_restarts_total", "Sequences begun anew because the verifier lost them.", figures.num_restarts
    )
    num_blocks = verifier.offer.num_blocks if verifier is not None else 0
    num_free = verifier.num_free_blocks if verifier is not None else 0
    yield gauge(
        "specfleet_kv_blocks",
        "Blocks of the verifier's KV cache.",
        [({"state": "used"}, num_blocks - num_free), ({"state": "free"}, num_free)],
    )
    num_reserved = verifier.num_reserved_blocks if verifier is not None else 0
    yield gauge(
        "specfleet_kv_blocks_reserved", "Blocks that what runs may come to need; admission goes by it.", num_reserved
    )
    yield counter("specfleet_prompt_tokens_total", "Tokens of prompts that began to run.", figures.num_prompt_tokens)
    yield counter(
        "specfleet_prompt_tokens_cached_total", "Of these, those in the prefix cache.", figures.num_cached_tokens
    )
