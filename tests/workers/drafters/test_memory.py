"""Memories: bounded, evicted, forgotten on request, saved, restored and merged; hostile snapshots refused."""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import pytest

from contracts.errors import InvalidArgument
from contracts.types import DraftNode, SequenceId, TenantId
from tests.workers.drafters.rig import (
    ONE,
    REMEMBERING,
    VOCAB_SIZE,
    A,
    B,
    make,
    paths,
    proposed,
    sentences,
    teach,
    top_of,
)
from workers.drafters.drafter import Commit, Opening, RememberingDrafter


def new(kind: str, **settings: int) -> RememberingDrafter:
    return cast(RememberingDrafter, make(kind, **settings))


def trees(drafter: RememberingDrafter, tenant: TenantId, text: list[int]) -> list[tuple[DraftNode, ...]]:
    """What is proposed after each of some beginnings of a text, which are not kept."""
    found = []
    for end in range(5, len(text), 17):
        drafter.open([Opening(sequence=ONE, tenant=tenant, tokens=[])])
        # Asked for below a path, the text reaches no memory.
        found.append(proposed(drafter, ONE, 12, tuple(text[end - 5 : end])))
        drafter.close([ONE])
    return found


def rounded(tree: tuple[DraftNode, ...]) -> dict[tuple[int, ...], float]:
    """A tree by path, without what adding in another order may change."""
    return {path: round(node.confidence, 9) for path, node in zip(paths(tree), tree, strict=True)}


@pytest.mark.parametrize("kind", REMEMBERING)
def test_forgetting_a_tenant_forgets_it_and_no_other(kind: str) -> None:
    drafter, text = new(kind), sentences(200, 1)
    for tenant in (A, B):
        teach(drafter, tenant, text[:10], text[10:])
    known = trees(drafter, B, text)
    assert trees(drafter, A, text) == known
    drafter.open([Opening(sequence=SequenceId("open"), tenant=A, tokens=text[:50])])
    drafter.forget(A)
    assert drafter.num_bytes(A) == 0
    assert not any(trees(drafter, A, text))
    assert trees(drafter, B, text) == known
    drafter.commit([Commit(sequence=SequenceId("open"), position=50, tokens=text[50:])])  # goes on
    drafter.close([SequenceId("open")])
    assert drafter.num_bytes(A) > 0


@pytest.mark.parametrize("kind", REMEMBERING)
def test_both_bounds_hold_after_every_call(kind: str) -> None:
    drafter = new(kind, max_tenant_bytes=20_000, max_bytes=40_000)
    tenants = [TenantId(f"t{index}") for index in range(4)]
    for turn in range(12):
        tenant = tenants[turn % 4]
        teach(drafter, tenant, [1], [random.Random(turn * 1000 + i).randrange(VOCAB_SIZE) for i in range(1500)])
        assert drafter.num_bytes(tenant) <= 20_000
        assert drafter.num_bytes() == sum(drafter.num_bytes(each) for each in tenants) <= 40_000
    sizes = [drafter.num_bytes(tenant) for tenant in tenants]
    assert sizes[3] > 0
    assert 0 in sizes[:3]  # whole memories went, the ones unused for longest
    assert sizes.index(0) == 0


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_full_memory_keeps_what_is_new(kind: str) -> None:
    drafter = new(kind, max_tenant_bytes=60_000)
    for turn in range(5):
        teach(drafter, A, [1], [random.Random(turn * 1000 + i).randrange(100) for i in range(800)])
    passage = random.Random(7).sample(range(100, VOCAB_SIZE), 40)
    for _ in range(3):
        teach(drafter, A, passage[:1], passage[1:])
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=passage[30:35])])
    assert proposed(drafter, ONE, 3)[0].token == passage[35]


@pytest.mark.parametrize("kind", REMEMBERING)
def test_the_estimated_size_is_about_what_the_interpreter_uses(kind: str) -> None:
    text = [random.Random(i).randrange(40_000) for i in range(1200)] * 2  # met twice, nothing is shared
    drafter = new(kind, vocab_size=40_000, max_tenant_bytes=2**24)
    tracemalloc.start()
    try:
        drafter.open([Opening(sequence=ONE, tenant=A, tokens=text[:1])])
        for index in range(1, len(text)):  # each made when it is needed, as they come from the wire
            runners_up = [(text[index] + i * 977) % 40_000 for i in range(1, 8)]
            top = (top_of(text[index], runners_up),)
            drafter.commit([Commit(sequence=ONE, position=index, tokens=[text[index] + 0], logprobs=top)])
        drafter.close([ONE])
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.5 <= used / drafter.num_bytes() <= 2.0, (used, drafter.num_bytes())


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_snapshot_restored_proposes_the_same_and_is_the_same(kind: str) -> None:
    drafter, other, text = new(kind), new(kind), sentences(400, 3)
    teach(drafter, A, text[:10], text[10:])
    snapshot = json.loads(json.dumps(drafter.snapshot(A)))
    teach(other, A, [1], sentences(100, 8))  # replaced
    other.restore(A, snapshot)
    for one, same in zip(trees(other, A, text), trees(drafter, A, text), strict=True):
        assert rounded(one) == rounded(same)
    assert other.snapshot(A) == drafter.snapshot(A)
    assert other.num_bytes() == drafter.num_bytes()
    assert other.num_bytes(B) == 0
    assert new(kind).snapshot(A) == drafter.snapshot(B)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_merging_knows_what_both_knew_in_either_order(kind: str) -> None:
    first, second = sentences(150, 1, first=0, num_words=70), sentences(150, 2, first=60, num_words=70)
    snapshots = []
    for text in (first, second):
        teacher = new(kind)
        teach(teacher, A, text[:5], text[5:])
        snapshots.append(teacher.snapshot(A))
    ways = []
    for order in (snapshots, snapshots[::-1]):
        drafter = new(kind)
        for snapshot in order:
            drafter.merge(A, snapshot)
        ways.append(drafter)
    for text in (first, second):
        found = trees(ways[0], A, text)
        assert all(found)
        for one, other in zip(found, trees(ways[1], A, text), strict=True):
            assert {(n.token, round(n.confidence, 9)) for n in one} == {
                (n.token, round(n.confidence, 9)) for n in other
            }


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_merge_keeps_to_the_bound(kind: str) -> None:
    teacher, small = new(kind), new(kind, max_tenant_bytes=9000)
    teach(teacher, A, [1], [random.Random(i).randrange(VOCAB_SIZE) for i in range(1500)])
    small.merge(A, teacher.snapshot(A))
    assert 0 < small.num_bytes(A) <= 9000


WRONG: list[object] = [None, True, -1, 1.5, float("nan"), "x", [], {}, [[]], 10**30, VOCAB_SIZE]


def spoiled(value: Any, replace: Callable[[Any], None], seed: int) -> Any:
    """A copy in which one place, drawn by the seed, holds something else."""
    result = copy.deepcopy(value)
    rng = random.Random(seed)
    at = result
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = rng.choice(keys)
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.85:
            at = at[key]
            continue
        replace((at, key))
        return result


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_hostile_snapshot_is_refused_and_changes_nothing(kind: str) -> None:
    drafter, text = new(kind), sentences(60, 3, num_words=12)
    teach(drafter, A, text[:10], text[10:])
    before = drafter.snapshot(A)
    messages: list[str] = []
    for seed in range(150):
        wrong = WRONG[seed % len(WRONG)]

        def put(place: tuple[Any, Any], wrong: object = wrong) -> None:
            place[0][place[1]] = wrong

        hostile = spoiled(before, put, seed)
        if hostile == before:
            continue
        clean = new(kind)
        try:
            clean.restore(A, hostile)
        except InvalidArgument as error:
            messages.append(str(error))
        else:
            trees(clean, A, text)  # harmless: every tree is still a tree
            continue
        assert clean.num_bytes() == 0
        with pytest.raises(InvalidArgument):
            drafter.merge(A, hostile)
        assert drafter.snapshot(A) == before
    assert len(messages) > 60
    assert max(map(len, messages)) < 300


@pytest.mark.parametrize("kind", REMEMBERING)
def test_snapshots_of_others_are_refused(kind: str) -> None:
    drafter = new(kind)
    good = drafter.snapshot(A)
    for change in ({"version": 2}, {"kind": "oracle"}, {"vocab_size": VOCAB_SIZE + 1}, {"memory": None}):
        with pytest.raises(InvalidArgument):
            drafter.restore(A, {**good, **change})
    nothing: list[object] = [None, [], "snapshot", {}]
    for hostile in nothing:
        with pytest.raises(InvalidArgument):
            drafter.merge(A, hostile)


def test_a_deeply_nested_snapshot_is_refused_without_going_deep() -> None:
    drafter = new("lookahead")
    branches: list[object] = []
    for _ in range(50_000):
        branches = [[1, 1, branches]]
    snapshot = {**drafter.snapshot(A), "memory": {"window": 14, "branches": branches}}
    try:
        with pytest.raises(InvalidArgument, match="branches"):
            drafter.restore(A, snapshot)
    finally:
        while branches:  # taken apart by hand: freeing it in one go would recurse too
            branches = cast(list[Any], branches)[0].pop()


def test_limits_that_cannot_work_are_refused() -> None:
    for settings in ({"max_tenant_bytes": 100}, {"max_bytes": 5000, "max_tenant_bytes": 6000}):
        with pytest.raises(InvalidArgument, match="max_tenant_bytes"):
            new("stand", **settings)
