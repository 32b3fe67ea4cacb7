"""A calibrator's state: the same after a round trip through JSON, and garbage refused."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.calibration import Calibrator
from speculation.calibration_state import calibrator_from_state, calibrator_to_state
from speculation.scores import ScoreKind

A = DrafterId("a")


def learned(horizon: float = 50.0) -> Calibrator:
    calibrator, rng = Calibrator(horizon=horizon, num_bins=4, max_depth=3), random.Random(5)
    for _ in range(200):
        kind, score = rng.choice(list(ScoreKind)), rng.random()
        calibrator.learn(rng.choice([A, DrafterId("b")]), kind, rng.randint(1, 5), score, chosen=rng.random() < score)
    return calibrator


@pytest.mark.parametrize("horizon", [50.0, math.inf])
def test_a_round_trip_through_json_keeps_everything(horizon: float) -> None:
    calibrator = learned(horizon)
    state = json.loads(json.dumps(calibrator_to_state(calibrator), allow_nan=False))
    again = calibrator_from_state(state)
    assert calibrator_to_state(again) == state
    assert again.report() == calibrator.report()
    fresh = Calibrator(horizon=horizon, num_bins=4, max_depth=3)
    fresh.merge(calibrator)
    for kind in ScoreKind:
        for depth in (1, 2, 3, 4):
            for score in (0.0, 0.3, 0.7, 1.0):
                assert again.confidence(A, kind, depth, score) == fresh.confidence(A, kind, depth, score)


GARBAGE: list[Any] = [
    None, True, -1, 2, 1.5, "x", [], {}, [[]], [[1.0]], math.nan, math.inf, -math.inf, 10**400, 1e300, -1e-9, [{}],
    [[1.0] * 4] * 3, [[-1.0] * 4] * 3, [[1.0] * 4, [2.0] * 4, [0.0] * 4], [["1"] * 4] * 3, [[math.nan] * 4] * 3,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


STATE = json.dumps(calibrator_to_state(learned()))
PLACES = places(json.loads(STATE))


@settings(max_examples=300)
@given(place=st.sampled_from(PLACES), garbage=st.sampled_from(GARBAGE))
def test_garbage_anywhere_is_refused_or_harmless(place: tuple[Any, ...], garbage: Any) -> None:
    state: Any = {"all": json.loads(STATE)}
    *way, last = ("all", *place)
    at = state
    for key in way:
        at = at[key]
    at[last] = garbage
    try:
        calibrator = calibrator_from_state(state["all"])
    except InvalidArgument:
        return
    for drafter in (A, DrafterId("b")):
        for kind in ScoreKind:
            confidences = [calibrator.confidence(drafter, kind, 1, score / 9) for score in range(10)]
            assert sorted(confidences) == confidences
            assert all(0.0 < confidence < 1.0 for confidence in confidences)
    assert math.isfinite(calibrator.report().brier_score)


@pytest.mark.parametrize(
    ("place", "garbage", "message"),
    [
        (("version",), 1, "version 1; this program reads 2"),
        (("sources", 0, "kind"), "odd", "'odd'; there are probability, margin, counted"),
        (("sources", 0, "pooled", 0, 1), -3.0, "bin 1"),
        (("sources", 0, "pooled", 2, 1), 1e6, "bin 1"),
        (("sources", 0, "depths", 0, "depth"), 9, "depth 9; right is 1 to 3"),
        (("sources", 0, "pooled", 1), [1.0], "right are 3 columns of 4"),
        (("sources", 0, "errors", 0, 0), math.nan, "finite number"),
        (("sources", 0, "drafter"), "", "names a drafter ''"),
        (("horizon",), 0.5, "horizon 0.5"),
    ],
)
def test_refusals_say_what_was_wrong(place: tuple[Any, ...], garbage: Any, message: str) -> None:
    state: Any = calibrator_to_state(learned())
    at = state
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = garbage
    with pytest.raises(InvalidArgument, match=message):
        calibrator_from_state(state)


def test_one_source_twice_is_refused() -> None:
    state: Any = calibrator_to_state(learned())
    state["sources"].append(state["sources"][0])
    with pytest.raises(InvalidArgument, match="twice"):
        calibrator_from_state(state)
