"""Early pruning: who leaves, who never does, what K learns, and when a check pays."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.pruning import PruningGate, PruningPolicy, rows_that_stay


@given(st.data())
def test_a_row_stays_exactly_if_no_row_on_its_path_is_out_ranked(data: st.DataObject) -> None:
    num_rows = data.draw(st.integers(0, 12))
    parents = [data.draw(st.integers(-1, index - 1)) for index in range(num_rows)]
    above = data.draw(st.lists(st.integers(0, 20), min_size=num_rows, max_size=num_rows))
    # Committed rows are above all nodes: a droppable row has no child that is not.
    droppable: list[bool] = []
    for parent in parents:
        droppable.append(data.draw(st.booleans()) or (parent >= 0 and droppable[parent]))
    stay = rows_that_stay(
        np.array(above, dtype=np.int64), np.array(parents, dtype=np.int64), np.array(droppable, dtype=bool), 10
    )
    for row in range(num_rows):
        path, at = [], row
        while at >= 0:
            path.append(at)
            at = parents[at]
        assert stay[row] == (not any(droppable[each] and above[each] >= 10 for each in path))


def test_k_finds_the_misprune_rate_that_was_asked_for() -> None:
    policy, rng = PruningPolicy({4: 64}, target_misprune=0.05), random.Random(1)
    for _ in range(6000):
        # The higher K, the less often a pruned token is the right one.
        policy.observe_fate(4, was_wrong=rng.random() < min(2.0 / policy.max_above(4), 1.0))
    assert policy.rates(4).misprune_rate == pytest.approx(0.05, abs=0.02)
    assert 20 <= policy.max_above(4) <= 90


def test_deeper_layers_never_have_the_larger_k() -> None:
    policy = PruningPolicy({2: 100, 8: 50})
    for _ in range(30):
        policy.observe_fate(8, was_wrong=True)
    assert policy.max_above(8) <= policy.max_above(2) == 100
    assert policy.layers == (2, 8)


def gate(prune: int, wrong: bool) -> PruningGate:
    policy = PruningPolicy({3: 64})
    policy.observe_check(3, num_checked=1000, num_pruned=prune)
    for _ in range(20):
        policy.observe_fate(3, was_wrong=wrong)
    return PruningGate(policy, num_layers=24)


def test_checks_only_where_it_pays() -> None:
    costs = {"row_s": 0.001, "check_s": 0.002, "redraft_s": 0.001}
    assert gate(300, False).checks(3, num_rows=64, **costs)
    assert not gate(300, False).checks(3, num_rows=2, **costs)
    assert not gate(5, False).checks(3, num_rows=64, **costs)
    assert not gate(300, True).checks(3, num_rows=64, row_s=0.001, check_s=0.002, redraft_s=0.01)
    assert not gate(300, False).checks(3, num_rows=0, **costs)


def test_what_does_not_pay_is_probed_now_and_then() -> None:
    poor = gate(0, False)
    answers = [poor.checks(3, num_rows=64, row_s=0.001, check_s=0.002, redraft_s=0.001) for _ in range(640)]
    assert sum(answers) == 10


def test_rates_are_reported() -> None:
    policy = PruningPolicy({3: 64})
    policy.observe_check(3, num_checked=10, num_pruned=4)
    assert policy.rates(3).prune_rate == pytest.approx(0.4)
    assert policy.rates(3).misprune_rate == 0.0


def test_nonsense_is_refused() -> None:
    for wrong in ({}, {-1: 8}, {1: 10, 2: 20}, {1: 1}):
        with pytest.raises(InvalidArgument):
            PruningPolicy(wrong)
    with pytest.raises(InvalidArgument, match="it looks after 3"):
        PruningPolicy({3: 64}).max_above(4)
    with pytest.raises(InvalidArgument):
        PruningGate(PruningPolicy({30: 64}), num_layers=24)
    ones = np.ones(2, dtype=np.int64)
    with pytest.raises(InvalidArgument):
        rows_that_stay(ones, ones, np.ones(2, dtype=bool), 3)
