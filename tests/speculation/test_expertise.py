"""Expertise: what is learned, that merging has no order, and that hostile state is refused."""

from __future__ import annotations

import json
import math
import random
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.expertise import Expertise
from speculation.expertise_state import expertise_from_state, expertise_to_state
from speculation.features import prompt_features
from tests.speculation.domains import Domains

A, B = DrafterId("a"), DrafterId("b")
SMALL = 16


def taught(seed: int, *, num: int = 30) -> Expertise:
    rng = random.Random(seed)
    expertise = Expertise(num_features=SMALL)
    for _ in range(num):
        features = prompt_features([rng.randrange(50) for _ in range(20)], num_features=SMALL)
        expertise.learn(features, rng.choice([A, B]), rng.random(), rng.randint(1, 90))
        expertise.see(features)
    return expertise


def test_a_specialist_is_known_by_its_prompts() -> None:
    domains, expertise = Domains(num_domains=4, seed=3), Expertise()
    rng = random.Random(4)
    for _ in range(60):
        domain = rng.randrange(4)
        expertise.learn(prompt_features(domains.prompt(domain)), A, 0.85 if domain == 2 else 0.35, 64)
    means = [
        sum(expertise.agreement(prompt_features(domains.prompt(domain)), A) for _ in range(20)) / 20
        for domain in range(4)
    ]
    assert means.pop(2) > max(means) + 0.25
    assert max(means) < 0.55


def test_a_preamble_that_all_prompts_share_hides_nothing() -> None:
    def error(*, is_seen: bool) -> float:
        domains, expertise, rng, errors = Domains(num_domains=4, seed=3), Expertise(), random.Random(4), list[float]()
        for _ in range(80):
            domain = rng.randrange(4)
            features = prompt_features([*range(60), *domains.prompt(domain)])
            rate = 0.85 if domain == 2 else 0.35
            errors.append(abs(expertise.agreement(features, A) - rate))
            expertise.learn(features, A, rate, 64)
            if is_seen:
                expertise.see(features)
        return fmean(errors[20:])

    assert error(is_seen=True) < 0.7 * error(is_seen=False)


def test_an_unknown_drafter_is_average_and_rates_stay_rates() -> None:
    features = prompt_features([1, 2, 3], num_features=SMALL)
    expertise = Expertise(num_features=SMALL)
    assert expertise.agreement(features, A) == 0.5
    for _ in range(50):
        expertise.learn(features, A, 1.0, 1000)
    assert 0.9 < expertise.agreement(features, A) < 1.0


def test_what_is_learned_can_be_overturned() -> None:
    features = prompt_features([1, 2, 3], num_features=SMALL)
    expertise = Expertise(num_features=SMALL, horizon=50)
    for _ in range(2000):
        expertise.learn(features, A, 0.9, 64)
    for _ in range(50):
        expertise.learn(features, A, 0.2, 64)
    assert expertise.agreement(features, A) < 0.4


def merged(*parts: Expertise) -> Expertise:
    whole = Expertise(num_features=SMALL)
    for part in parts:
        whole.merge(part)
    return whole


def test_merging_has_neither_order_nor_grouping() -> None:
    one, two, three = taught(1), taught(2), taught(3)
    features = prompt_features([7, 8, 9], num_features=SMALL)
    ways = [
        merged(one, two, three),
        merged(three, one, two),
        merged(merged(one, two), three),
        merged(one, merged(two, three)),
    ]
    for drafter in (A, B):
        guesses = [way.agreement(features, drafter) for way in ways]
        assert max(guesses) - min(guesses) < 1e-12
        assert len({round(dict(way.models())[drafter].num_tokens, 6) for way in ways}) == 1
    nothing = merged(one, Expertise(num_features=SMALL))
    assert expertise_to_state(nothing) == expertise_to_state(one)


def test_merging_equals_having_seen_both_where_prompts_do_not_overlap() -> None:
    first, second = np.zeros(SMALL), np.zeros(SMALL)
    first[0] = second[1] = 1.0
    one, two = Expertise(num_features=SMALL), Expertise(num_features=SMALL)
    for _ in range(20):
        one.learn(first, A, 0.9, 64)
        two.learn(second, A, 0.2, 64)
    both = merged(one, two)
    assert both.agreement(first, A) > 0.6 > 0.4 > both.agreement(second, A)


def test_size_is_bounded() -> None:
    expertise = Expertise(num_features=SMALL, max_drafters=3)
    for index in range(20):
        expertise.learn(np.zeros(SMALL), DrafterId(f"d{index}"), 0.5, 1 + index)
    assert len(expertise) == 3
    other = Expertise(num_features=SMALL)
    for index in range(9):
        other.learn(np.zeros(SMALL), DrafterId(f"e{index}"), 0.5, 5)
    expertise.merge(other)
    assert len(expertise) == 3


@pytest.mark.parametrize(("agreement", "num"), [(math.nan, 1), (1.1, 1), (-0.1, 1), (0.5, -1), (0.5, math.inf)])
def test_impossible_evidence_is_refused(agreement: float, num: float) -> None:
    with pytest.raises(InvalidArgument):
        Expertise(num_features=SMALL).learn(np.zeros(SMALL), A, agreement, num)
    with pytest.raises(InvalidArgument):
        Expertise(num_features=SMALL).learn(np.full(SMALL, math.nan), A, 0.5, 1)


def test_a_round_trip_through_json_keeps_everything() -> None:
    expertise = taught(5)
    state = json.loads(json.dumps(expertise_to_state(expertise), allow_nan=False))
    assert expertise_to_state(expertise_from_state(state)) == state


GARBAGE: list[Any] = [
    None, True, -1, 3, 1.5, "", "x" * 300, [], {}, [[]], math.nan, math.inf, 10**400, 1e300, -1e-9,
    [1e300] * (SMALL + 1), [{}], [0.0] * 5,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


PLACES = places(expertise_to_state(taught(6, num=4)))


@settings(max_examples=300)
@given(st.sampled_from(PLACES), st.sampled_from(GARBAGE))
def test_hostile_state_is_refused_or_harmless(place: tuple[Any, ...], garbage: Any) -> None:
    state: Any = json.loads(json.dumps(expertise_to_state(taught(6, num=4))))
    if place:
        at = state
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = garbage
    else:
        state = garbage
    try:
        read = expertise_from_state(state)
    except InvalidArgument:
        return
    features = prompt_features([1], num_features=read.num_features)
    assert 0.0 < read.agreement(features, A) < 1.0
