"""Fading sums against the definition, over enough observations for the unit to start afresh."""

from __future__ import annotations

import math
import random

import pytest

from contracts.errors import InvalidArgument
from speculation.fading_sums import FadingSums


@pytest.mark.parametrize(("horizon", "num"), [(1.5, 700), (20.0, 6000), (math.inf, 500)])
def test_an_old_observation_weighs_what_the_definition_says(horizon: float, num: int) -> None:
    sums, rng = FadingSums(num_columns=2, num_bins=3, horizon=horizon), random.Random(0)
    expected = [[0.0] * 3 for _ in range(2)]
    for _ in range(num):
        index, amount = rng.randrange(3), rng.random()
        expected = [[each * (1.0 - 1.0 / horizon) for each in column] for column in expected]
        expected[0][index] += 1.0
        expected[1][index] += amount
        sums.add(index, (1.0, amount))
    for ours, theirs in zip(sums.columns(), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert sum(sums.columns()[0]) == pytest.approx(min(num, horizon), rel=1e-3)


@pytest.mark.parametrize("horizon", [1.0, 0.0, -5.0, math.nan])
def test_a_horizon_that_forgets_everything_is_refused(horizon: float) -> None:
    with pytest.raises(InvalidArgument, match="horizon"):
        FadingSums(num_columns=1, num_bins=1, horizon=horizon)
