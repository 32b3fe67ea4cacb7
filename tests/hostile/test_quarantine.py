"""What counts against a drafter, for how long, and against whom."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.clock import VirtualClock
from contracts.errors import QuotaExceeded
from contracts.types import Epoch, SamplingParams, SequenceId, TenantId
from router.drafter_allowance import DrafterAllowance, Pace
from router.orders import DrafterOrders, Opened, TokensDecided, Wish
from router.quarantine import BROKEN, UNASKED, Quarantine, QuarantineRules, Stranger
from specfleet.v1 import fleet_pb2

ONE = Stranger(name="one")
RULES = QuarantineRules()


def put_out(quarantine: Quarantine, who: Stranger) -> QuotaExceeded:
    while (refusal := quarantine.offends(who, BROKEN, "it sends nonsense")) is None:
        pass
    return refusal


def test_the_pause_is_said_ends_and_doubles() -> None:
    clock = VirtualClock()
    quarantine = Quarantine(clock)
    for pause_s in (30.0, 60.0, 120.0):
        quarantine.joins(ONE)
        refusal = put_out(quarantine, ONE)
        assert (refusal.retry_after_s, quarantine.held()) == (pause_s, {"one": "it sends nonsense"})
        assert f"drafter one is in quarantine for {pause_s:.0f} s: it sends nonsense" in refusal.message
        clock.advance(pause_s - 1.0)
        with pytest.raises(QuotaExceeded, match="quarantine for 1 s"):
            quarantine.joins(ONE)
        clock.advance(1.0)
        assert quarantine.held() == {}
    for _ in range(20):
        put_out(quarantine, ONE)
    assert put_out(quarantine, ONE).retry_after_s == RULES.longest_pause_s
    clock.advance(RULES.longest_pause_s + RULES.forget_s)
    assert put_out(quarantine, ONE).retry_after_s == RULES.first_pause_s


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_a_link_that_comes_and_goes_and_now_and_then_a_mistake_are_borne_with(seed: int, num_joins: int) -> None:
    clock, chance = VirtualClock(), random.Random(seed)
    quarantine = Quarantine(clock)
    for number in range(num_joins):
        quarantine.joins(ONE)
        clock.advance(5.0 + chance.random())
        if number % 60 == 30:
            assert quarantine.offends(ONE, UNASKED, "a slip") is None
    assert quarantine.held() == {}


def test_a_certificate_is_who_it_is_and_one_with_many_names_is_out_as_a_whole() -> None:
    clock = VirtualClock()
    quarantine = Quarantine(clock)
    owner, impostor = Stranger(name="one", certificate="a"), Stranger(name="one", certificate="b")
    put_out(quarantine, impostor)
    quarantine.joins(owner)
    for name in ("two", "three"):
        put_out(quarantine, Stranger(name=name, certificate="b"))
    with pytest.raises(QuotaExceeded, match="as three it sends nonsense"):
        quarantine.joins(Stranger(name="four", certificate="b"))
    quarantine.joins(owner)
    assert set(quarantine.held()) == {"one", "two", "three"}


def test_names_that_nobody_knows_come_at_a_bounded_rate_and_take_bounded_memory() -> None:
    clock = VirtualClock()
    quarantine = Quarantine(clock)
    put_out(quarantine, ONE)
    for number in range(RULES.max_strangers):
        quarantine.joins(Stranger(name=f"new-{number}"))
    for number in range(3):
        with pytest.raises(QuotaExceeded, match="256 others just were too") as refused:
            quarantine.joins(Stranger(name=f"another-{number}"))
        assert refused.value.retry_after_s == 1.0
        quarantine.joins(Stranger(name="new-7"))  # known already
        clock.advance(1.0)
        quarantine.joins(Stranger(name=f"another-{number}"))
    for number in range(1_500):
        put_out(quarantine, Stranger(name=f"bad-{number}"))
    assert len(quarantine.held()) <= 1024


def decided(sequence: int, num_tokens: int) -> TokensDecided:
    return TokensDecided(sequence=SequenceId(str(sequence)), epoch=Epoch(0), position=9, tokens=(1,) * num_tokens)


def opened(sequence: int) -> Opened:
    return Opened(
        sequence=SequenceId(str(sequence)),
        epoch=Epoch(0),
        tenant=TenantId(""),
        tokens=(1,) * 9,
        num_prompt=9,
        sampling=SamplingParams(),
    )


def wish(sequence: int, num_nodes: int) -> Wish:
    return Wish(sequence=SequenceId(str(sequence)), epoch=Epoch(0), position=9, num_nodes=num_nodes, run_ahead=True)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), num_sequences=st.integers(1, 16), num_nodes=st.integers(0, 64))
def test_whoever_says_what_it_is_asked_for_is_heard_however_late(seed: int, num_sequences: int, num_nodes: int) -> None:
    """In the worst way that an honest one may say it: each node in a draft of its own, all at the end of a round, and
    a round late."""
    chance, allowance = random.Random(seed), DrafterAllowance()
    allowance.grant(
        DrafterOrders(
            open=[opened(each) for each in range(num_sequences)],
            want=[wish(each, num_nodes) for each in range(num_sequences)],
        )
    )
    for _ in range(8):
        allowance.grant(DrafterOrders(commit=[decided(each, chance.randint(1, 9)) for each in range(num_sequences)]))
        for _ in range(num_sequences):
            one = [fleet_pb2.Draft(sequence=1, nodes=[fleet_pb2.DraftNode()]) for _ in range(num_nodes)]
            ended = fleet_pb2.Draft(sequence=1, is_last=True)
            assert allowance.spend(fleet_pb2.Drafts(drafts=[*one, ended]))


@given(num_orders=st.integers(0, 1000), num_nodes=st.integers(1, 64))
def test_what_nobody_asked_for_is_bounded_however_long_it_was_quiet_before(num_orders: int, num_nodes: int) -> None:
    allowance = DrafterAllowance()
    allowance.grant(DrafterOrders(open=[opened(1)], want=[wish(1, num_nodes)]))
    for _ in range(num_orders):
        allowance.grant(DrafterOrders(commit=[decided(1, 1)]))
    message = fleet_pb2.Drafts(drafts=[fleet_pb2.Draft(nodes=[fleet_pb2.DraftNode()] * 10)])
    num_heard = 0
    while allowance.spend(message):
        num_heard += 1
    assert num_heard * 12 <= 4096 + 4 * (2 * num_nodes + 8)
    assert not allowance.spend(message)


def test_messages_beyond_the_rate_wait_and_a_burst_does_not() -> None:
    clock = VirtualClock()
    clock.advance(10.0)
    pace, waited_s = Pace(clock), 0.0
    for number in range(5_000):
        wait_s = pace.next_s()
        clock.advance(wait_s)
        waited_s += wait_s
        if number < 499:
            assert waited_s == 0.0
    assert waited_s == pytest.approx(4_500 / 2_000.0, rel=0.01)
