"""What the router tells workers of a sequence: that it is there, and what is wanted of drafters."""

from __future__ import annotations

from router.fused_steps import NUM_CANDIDATES
from router.orders import Opened, Wish
from router.sequence import RoutedSequence

__all__ = ["only_follow", "opened", "wish"]

_RUN_AHEAD = 3  # draft nodes for each one that a round may check: those in flight, their successors, and likely misses


def wish(sequence: RoutedSequence) -> Wish:
    """What its drafters are to look for, by how it stands."""
    if sequence.steps is not None:
        return Wish(
            sequence=sequence.id,
            epoch=sequence.epoch,
            position=sequence.position,
            num_nodes=NUM_CANDIDATES,
            below=sequence.steps.path,
            max_depth=1,
            max_children=NUM_CANDIDATES,
        )
    num_nodes = sequence.max_draft * (_RUN_AHEAD if sequence.runs_ahead else 1)
    return Wish(
        sequence=sequence.id,
        epoch=sequence.epoch,
        position=sequence.position,
        num_nodes=num_nodes,
        max_depth=num_nodes if sequence.parts.is_chain else sequence.max_depth,
        max_children=1 if sequence.parts.is_chain else 0,
        run_ahead=sequence.runs_ahead,
        num_eager=sequence.max_draft,
        least_value=sequence.reach.least_value,
    )


def only_follow(sequence: RoutedSequence) -> Wish:
    """Nothing but to read along."""
    return Wish(sequence=sequence.id, epoch=sequence.epoch, position=sequence.position, num_nodes=0)


def opened(sequence: RoutedSequence) -> Opened:
    """A sequence for a worker that does not know it."""
    return Opened(
        sequence=sequence.id,
        epoch=sequence.epoch,
        tenant=sequence.tenant,
        tokens=tuple(sequence.tokens),
        num_prompt=sequence.num_prompt,
        sampling=sequence.sampling,
        request=sequence.request,
        trace=sequence.trace,
    )
