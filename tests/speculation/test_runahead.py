"""Run-ahead: the best total for any number of steps, misses included."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import SequenceId
from speculation.runahead import OpenPlace, allot

S = SequenceId("s")
PLACES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=4)


def total(places: list[OpenPlace], steps: tuple[int, ...], weight: float) -> float:
    return sum(
        place.value * place.agreement**step * (weight if place.is_miss else 1.0)
        for place, count in zip(places, steps, strict=True)
        for step in range(1, count + 1)
    )


@given(PLACES, st.integers(0, 6))
def test_no_other_sharing_out_brings_more(drawn: list[tuple[float, float, bool]], num_steps: int) -> None:
    places = [
        OpenPlace(sequence=S, node=index, value=value, agreement=agreement, is_miss=is_miss)
        for index, (value, agreement, is_miss) in enumerate(drawn)
    ]
    allotted = {a.node: a.num_steps for a in allot(places, num_steps, miss_weight=1.5, min_gain=0.0)}
    mine = tuple(allotted.get(index, 0) for index in range(len(places)))
    assert sum(mine) <= num_steps
    best = max(
        total(places, steps, 1.5)
        for steps in itertools.product(range(num_steps + 1), repeat=len(places))
        if sum(steps) <= num_steps
    )
    assert total(places, mine, 1.5) == pytest.approx(best)


def test_likely_misses_are_made_ready_before_the_deep_end() -> None:
    leaf = OpenPlace(sequence=S, node=1, value=0.3, agreement=0.6)
    sibling = OpenPlace(sequence=S, node=2, value=0.2, agreement=0.6, is_miss=True)
    steps = {a.node: a.num_steps for a in allot([leaf, sibling], 5)}
    assert steps == {1: 3, 2: 2}
    weighted = {a.node: a.num_steps for a in allot([leaf, sibling], 5, miss_weight=3.0)}
    assert weighted[2] > weighted[1]


def test_what_is_not_worth_a_step_gets_none() -> None:
    assert allot([OpenPlace(sequence=S, node=1, value=0.005, agreement=0.9)], 10) == []
    assert allot([OpenPlace(sequence=S, node=1, value=0.9, agreement=0.9)], 0) == []
    capped = allot([OpenPlace(sequence=S, node=1, value=1.0, agreement=1.0)], 10, max_steps_per_place=4)
    assert capped[0].num_steps == 4


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        OpenPlace(sequence=S, node=1, value=float("nan"), agreement=0.5)
    with pytest.raises(InvalidArgument):
        allot([], -1)
