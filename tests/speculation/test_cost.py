"""The cost table: monotone whatever it is fed, right where it was fed sense, robust, pessimistic beyond, restorable."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import StepReport
from speculation.cost import CostTable, StepCost, probe_plan
from speculation.cost_state import cost_from_state, cost_to_state
from tests.speculation.costs import Steps

SHAPES = [
    Steps(base_s=0.02, flat_rows=8, row_s=0.002, key_s=1e-7),
    Steps(base_s=0.02, flat_rows=1, row_s=0.001, key_s=1e-6),
    Steps(base_s=0.02, flat_rows=16, row_s=0.0015, stair=16),
]
POINTS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 4000), st.floats(1e-6, 10.0)), min_size=1, max_size=40)


def probed(shape: StepCost, *, noise: float = 0.0, repeat: int = 7, max_rows: int = 128) -> CostTable:
    table, rng = CostTable(), random.Random(1)
    for rows, keys in probe_plan(max_rows, 1000):
        for _ in range(repeat):
            spike = 10.0 if rng.random() < 0.05 and noise else 1.0
            elapsed_s = shape.cost_s(rows, rows * keys) * rng.lognormvariate(0.0, noise) * spike
            table.observe(StepReport(num_rows=rows, num_context=rows * keys, num_sequences=1, elapsed_s=elapsed_s))
    return table


@settings(max_examples=60)
@given(POINTS)
def test_monotone_in_both_whatever_was_measured(points: list[tuple[int, int, float]]) -> None:
    table = CostTable()
    for rows, keys, elapsed_s in points:
        table.add(rows, rows * keys, elapsed_s)
    at_rows = np.array([1, 2, 3, 7, 8, 9, 20, 33, 64, 150, 300, 1000], dtype=float)
    contexts = np.array([1, 5, 60, 700, 5000, 60_000, 1e6, 1e7])
    costs = np.array([[table.cost_s(row, context) for context in contexts] for row in at_rows])
    assert bool((costs > 0.0).all())
    rounding = 1e-9 * costs.max()
    assert bool((np.diff(costs, axis=0) >= -rounding).all())
    assert bool((np.diff(costs, axis=1) >= -rounding).all())
    grid = [axis.ravel() for axis in np.meshgrid(at_rows, contexts, indexing="ij")]
    assert table.costs_s(*grid) == pytest.approx(costs.ravel())
    assert table.marginal_s(5, 100, 20) >= -rounding


@pytest.mark.parametrize("shape", SHAPES)
def test_probes_recover_the_cost(shape: Steps) -> None:
    table = probed(shape, noise=0.05)
    for rows in (1, 2, 4, 8, 16, 32, 64, 128):
        for keys in (1, 250, 1000):
            assert table.cost_s(rows, rows * keys) == pytest.approx(shape.cost_s(rows, rows * keys), rel=0.15)


def test_one_hiccup_changes_nothing_and_a_new_speed_is_learned() -> None:
    table = probed(SHAPES[0])
    before = table.cost_s(8, 8)
    for _ in range(3):
        table.add(8, 8, 3.0)
    for _ in range(20):
        table.add(1, 1, 0.02)  # makes the table look again
    assert table.cost_s(8, 8) <= 1.05 * before
    for rows, keys in probe_plan(128, 1000):
        for _ in range(table.num_samples):
            table.add(rows, rows * keys, 2.0 * SHAPES[0].cost_s(rows, rows * keys))
    for rows in (1, 8, 64):
        assert table.cost_s(rows, rows) == pytest.approx(2.0 * SHAPES[0].cost_s(rows, rows), rel=0.02)


def test_what_was_not_seen_for_ages_still_counts_for_something() -> None:
    table = CostTable(memory=1.0)  # so that a thousand rounds are as long ago as millions are by default
    for rows in (1, 4, 64):
        table.add(rows, rows * 10, 0.02 + 0.001 * rows)
    for _ in range(1000):
        table.add(4, 40, 0.03)
    costs = [table.cost_s(rows, rows * 10) for rows in (1, 4, 64)]
    assert costs == pytest.approx([0.021, 0.03, 0.084], rel=0.05)


def test_beyond_what_was_measured_rows_are_not_free() -> None:
    table = CostTable()
    for rows in (1, 2, 4, 8):
        table.add(rows, rows * 10, 0.02)
    assert table.cost_s(16, 160) >= 0.04 - 1e-12


def test_steps_that_pruned_rows_or_are_not_typical_are_left_out() -> None:
    table = CostTable()
    table.observe(StepReport(num_rows=8, num_context=80, num_sequences=1, elapsed_s=0.01, num_rows_pruned=3))
    table.observe(StepReport(num_rows=8, num_context=80, num_sequences=1, elapsed_s=0.9, is_typical=False))
    assert not table
    with pytest.raises(InvalidArgument, match="probe_plan"):
        table.cost_s(1, 1)


def test_the_plan_begins_with_its_corners_and_repeats_nothing() -> None:
    plan = probe_plan(48, 1000)
    assert plan[:4] == [(1, 1), (48, 1), (1, 1000), (48, 1000)]
    assert len(set(plan)) == len(plan)
    assert max(rows for rows, _ in plan) == 48


def test_a_round_trip_through_json_keeps_costs() -> None:
    table = probed(SHAPES[0], noise=0.05)
    state = json.loads(json.dumps(cost_to_state(table), allow_nan=False))
    again = cost_from_state(state)
    assert cost_to_state(again) == state
    for rows in (1, 5, 64, 200):
        assert again.cost_s(rows, rows * 100) == pytest.approx(table.cost_s(rows, rows * 100), rel=0.01)


GARBAGE: list[Any] = [None, True, -1, 0, 2, 1.5, "x", [], {}, [[]], float("nan"), float("inf"), 10**400, [1e-3] * 99]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


STATE = cost_to_state(probed(SHAPES[0], repeat=1, max_rows=4))


@settings(max_examples=200)
@given(st.sampled_from(places(STATE)), st.sampled_from(GARBAGE))
def test_hostile_state_is_refused_or_harmless(place: tuple[Any, ...], garbage: Any) -> None:
    state: Any = json.loads(json.dumps(STATE))
    if place:
        at = state
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = garbage
    else:
        state = garbage
    try:
        read = cost_from_state(state)
    except InvalidArgument:
        return
    assert not read or read.cost_s(3, 30) > 0.0


@pytest.mark.parametrize(
    ("rows", "context", "elapsed_s"), [(0, 1, 1.0), (2, 1, 1.0), (1, 1, 0.0), (1, 1, float("nan"))]
)
def test_impossible_steps_are_refused(rows: int, context: int, elapsed_s: float) -> None:
    with pytest.raises(InvalidArgument):
        CostTable().add(rows, context, elapsed_s)
