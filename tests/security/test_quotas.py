"""What a tenant may ask for, and that a tenant which floods the queue takes nothing from another."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import VirtualClock
from contracts.errors import PermissionDenied, QuotaExceeded
from contracts.types import RequestId, SequenceId, TenantId
from router.fair_queue import FairQueue
from router.security.quotas import Quotas
from router.sequence import RoutedSequence
from specfleet.keys import Limits

A, B = TenantId("a"), TenantId("b")
PLACES = 64


@dataclass(eq=False)
class Waiting:
    """What the queue looks at of a sequence."""

    id: SequenceId
    tenant: TenantId
    priority: int = 0
    num_prompt: int = 10
    max_tokens: int = 10


def waiting(name: object, tenant: TenantId, priority: int = 0, max_tokens: int = 10) -> RoutedSequence:
    of = Waiting(SequenceId(str(name)), tenant, priority, max_tokens=max_tokens)
    return cast(RoutedSequence, of)


def quotas(clock: VirtualClock, *, is_shared: bool = False, **limits: int) -> Quotas:
    return Quotas(clock, lambda tenant: Limits(**limits), is_shared=lambda: is_shared)


def refusal(quotas: Quotas, tenant: TenantId = A) -> float | None:
    """After how many seconds to come again, or None where it is let in."""
    try:
        quotas.check(tenant)
    except QuotaExceeded as error:
        return error.retry_after_s
    return None


def test_requests_a_minute_come_back_when_it_was_said() -> None:
    clock = VirtualClock()
    of = quotas(clock, requests_per_minute=6)
    for number in range(6):
        assert refusal(of) is None
        of.begin(A, RequestId(str(number)), 1)
    assert refusal(of) == pytest.approx(10.0)
    assert refusal(of, B) is None, "another tenant has its own"
    clock.advance(9.9)
    assert refusal(of) == pytest.approx(0.1)
    clock.advance(0.2)
    assert refusal(of) is None


def test_tokens_are_owed_until_they_are_paid_for() -> None:
    clock = VirtualClock()
    of = quotas(clock, tokens_per_minute=600)
    of.check(A)
    of.begin(A, RequestId("one"), 500)
    assert refusal(of) is None
    of.end(A, RequestId("one"), 400)
    of.end(A, RequestId("one"), 400)  # told twice, it counts once
    assert refusal(of) == pytest.approx(30.1)
    clock.advance(30.2)
    assert refusal(of) is None


def test_requests_at_a_time_become_free_when_one_ends() -> None:
    of = quotas(VirtualClock(), max_concurrent=2)
    for name in ("one", "two"):
        of.check(A)
        of.begin(A, RequestId(name), 1)
    assert refusal(of) is not None
    of.end(A, RequestId("one"), 5)
    assert refusal(of) is None


def test_many_at_once_find_no_more_room_than_there_is() -> None:
    """A request has its place from the moment in which it was not refused, and gives it back if it never begins."""
    of = quotas(VirtualClock(), max_concurrent=2, requests_per_minute=10)
    for name in ("one", "two"):
        of.check(A)
        of.let_in(A, RequestId(name), 1)
    assert refusal(of) is not None
    of.end(A, RequestId("one"), 0)
    assert refusal(of) is None
    of.begin(A, RequestId("two"), 1)
    of.let_in(A, RequestId("two"), 1)
    of.end(A, RequestId("two"), 1)
    assert refusal(of) is None
    shared = quotas(VirtualClock(), is_shared=True)
    for number in range(4):
        shared.check(A, max_waiting=8)
        shared.let_in(A, RequestId(str(number)), 1)
    with pytest.raises(QuotaExceeded, match="its part of the queue, where 4 of its sequences wait"):
        shared.check(A, max_waiting=8)
    shared.check(B, max_waiting=8)


def test_beside_other_tenants_a_priority_is_a_privilege() -> None:
    of = quotas(VirtualClock(), max_priority=2)
    of.check(A, priority=2)
    with pytest.raises(PermissionDenied, match="priority is 3; tenant a may ask for 2 at most"):
        of.check(A, priority=3)
    Quotas(VirtualClock()).check(A, priority=3)


@given(st.lists(st.sampled_from("abcde"), max_size=200))
def test_a_flood_leaves_room_in_the_queue_for_every_other_tenant(arrivals: list[str]) -> None:
    """Whoever comes, and however many: a tenant with nothing in the queue still gets in."""
    of, queue = quotas(VirtualClock(), is_shared=True), list[TenantId]()
    for name in ["a"] * (2 * PLACES) + arrivals:
        tenant = TenantId(name)
        try:
            of.check(tenant, waiting=queue, max_waiting=PLACES)
        except QuotaExceeded:
            assert tenant in queue
            continue
        queue.append(tenant)
    assert Counter(queue)[A] <= PLACES // 2
    assert len(queue) < PLACES


def test_a_flood_delays_nobody_else() -> None:
    queue = FairQueue()
    for number in range(500):
        queue.push(waiting(f"a{number}", A))
    queue.pop()
    for number in range(3):
        queue.push(waiting(f"b{number}", B))
    first = [queue.pop().id for _ in range(6)]
    assert sum(name.startswith("b") for name in first) == 3, first


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4))
def test_tenants_with_enough_to_do_get_tokens_by_their_weights(seed: int, weight_a: int, weight_b: int) -> None:
    weights, rng = {A: weight_a, B: weight_b}, random.Random(seed)
    queue = FairQueue(lambda tenant: weights[tenant])
    for number in range(400):
        for tenant in (A, B):
            queue.push(waiting(f"{tenant}{number}", tenant, max_tokens=rng.randint(1, 100)))
    given_to = {A: 0.0, B: 0.0}
    for _ in range(200):
        sequence = queue.pop()
        given_to[sequence.tenant] += (sequence.num_prompt + sequence.max_tokens) / weights[sequence.tenant]
        assert abs(given_to[A] - given_to[B]) <= 110.0, "never further apart than one sequence"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 2)), max_size=60), st.integers(0, 2**32))
def test_within_a_tenant_it_is_a_queue_by_priority(arrivals: list[tuple[str, int]], seed: int) -> None:
    queue, rng = FairQueue(), random.Random(seed)
    gone = set()
    for number, (tenant, priority) in enumerate(arrivals):
        queue.push(waiting(number, TenantId(tenant), priority))
        if rng.random() < 0.2:
            gone.add(str(number))
            queue.discard(SequenceId(str(number)))
    left = len(arrivals) - len(gone)
    assert (len(queue), len(list(queue)), bool(queue)) == (left, left, left > 0)
    popped = []
    while queue:
        first = queue.first()
        popped.append(queue.pop())
        assert popped[-1] is first
    for tenant in ("a", "b"):
        expected = sorted(
            (number for number, of in enumerate(arrivals) if of[0] == tenant and str(number) not in gone),
            key=lambda number: (-arrivals[number][1], number),
        )
        assert [sequence.id for sequence in popped if sequence.tenant == tenant] == [str(n) for n in expected]
