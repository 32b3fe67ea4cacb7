"""A short slice of each face's fuzzing, the same each time; `make fuzz` runs on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis.strategies import SearchStrategy

from tests.fuzz import fleet, grpc, http
from tests.fuzz.runner import Attempt, fuzz


@pytest.mark.parametrize(
    ("grammar", "attempt", "right", "wrong"),
    [
        pytest.param(grpc.grammar, grpc.attempt, "OK", "INVALID_ARGUMENT", id="grpc"),
        pytest.param(http.grammar, http.attempt, "200", "400", id="http"),
        pytest.param(fleet.grammar, fleet.attempt, "OK", "INVALID_ARGUMENT", id="fleet"),
    ],
)
def test_a_slice(grammar: Callable[[], SearchStrategy[object]], attempt: Attempt, right: str, wrong: str) -> None:
    heard = fuzz(grammar, attempt, seed=1, num_examples=8)
    assert heard[right] > 0, "something is let in"
    assert heard[wrong] > 0, "and something is not"
