"""What comes in from workers: refused where no machine could say it, bounded where the rest of it would not hold."""

from __future__ import annotations

import math

import pytest

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from router import wire
from specfleet.v1 import fleet_pb2
from speculation.roster import Member, Roster


@pytest.mark.parametrize(
    ("num_sequences", "elapsed_s"), [(1, 0.0), (1, 1e308), (1, 4000.0), (1, math.inf), (1, math.nan), (0, 0.001)]
)
def test_steps_of_no_machine_are_refused(num_sequences: int, elapsed_s: float) -> None:
    step = fleet_pb2.StepReport(num_rows=1, num_context=1, num_sequences=num_sequences, elapsed_s=elapsed_s)
    with pytest.raises(InvalidArgument, match=f"of {num_sequences} sequences took"):
        wire.drafts(fleet_pb2.Drafts(steps=[step]), DrafterId("a"), num_tokens=5)


@pytest.mark.parametrize(("slowest_s", "others"), [(3600.0, 2), (1e-7, 2**32 - 1)])
def test_whatever_steps_are_taken_a_drafter_has_a_speed(slowest_s: float, others: int) -> None:
    steps = [
        fleet_pb2.StepReport(num_rows=1, num_context=1, num_sequences=num, elapsed_s=elapsed_s)
        for num, elapsed_s in ((1, 1e-7), (others, slowest_s))
    ]
    taken = wire.drafts(fleet_pb2.Drafts(steps=steps), DrafterId("a"), num_tokens=5).steps
    roster = Roster()
    roster.join(Member(drafter=DrafterId("a"), has_logits=True, step_s=0.001))
    for step in taken:
        roster.observe_step(DrafterId("a"), num_sequences=step.num_sequences, elapsed_s=step.elapsed_s)
    assert 0.0 < roster.step_s(DrafterId("a")) <= 3600.0


def test_a_context_is_no_longer_than_the_cache_holds_beside_its_tree() -> None:
    hello = fleet_pb2.VerifierHello(
        num_ranks=1, max_context=4096, max_batch_rows=64, num_blocks=1000, block_tokens=16, num_real_tokens=9
    )
    assert wire.verifier_offer(hello).max_context == 4096
    hello.num_blocks = 100
    assert wire.verifier_offer(hello).max_context == 96 * 16
    hello.num_blocks = 3
    assert wire.verifier_offer(hello).max_context == 16
