"""Isotonic regression against the max-min formula, which needs no algorithm."""

from __future__ import annotations

import doctest
import math

from hypothesis import given
from hypothesis import strategies as st

from speculation import fusion, isotonic, scores

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 10)), min_size=1, max_size=12)


@given(pairs=PAIRS)
def test_equals_the_max_min_formula(pairs: list[tuple[float, float]]) -> None:
    """The best fit at i is the largest, over beginnings up to i, of the smallest mean, over ends from i."""

    def mean(first: int, last: int) -> float:
        part = pairs[first : last + 1]
        return math.fsum(value * weight for value, weight in part) / math.fsum(weight for _, weight in part)

    n = len(pairs)
    expected = [max(min(mean(first, last) for last in range(i, n)) for first in range(i + 1)) for i in range(n)]
    fitted = isotonic.isotonic([value for value, _ in pairs], [weight for _, weight in pairs])
    assert all(abs(ours - theirs) < 1e-9 for ours, theirs in zip(fitted, expected, strict=True))


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (isotonic, fusion, scores):
        outcome = doctest.testmod(module)
        assert outcome.attempted > 0
        assert outcome.failed == 0
