"""Confidences of the candidates of one place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.work import Candidate
from workers.drafters.model_scores import scored

VALUES = st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=6).map(lambda values: sorted(values, reverse=True))


def candidates(values: list[float]) -> list[Candidate]:
    return [Candidate(token=i, value=value) for i, value in enumerate(values)]


@given(values=VALUES, temperature=st.sampled_from([0.0, 1e-6, 0.7, 1.0, 30.0]), width=st.integers(1, 6))
def test_siblings_never_add_up_to_more_than_one_and_keep_their_order(
    values: list[float], temperature: float, width: int
) -> None:
    said = scored(candidates(values), temperature=temperature, width=width)
    confidences = [confidence for _, confidence in said]
    assert [token for token, _ in said] == list(range(len(values)))
    assert math.fsum(confidences) <= 1.0 + 1e-12
    assert all(0.0 <= confidence <= 1.0 for confidence in confidences)
    assert confidences == sorted(confidences, reverse=True)


def test_where_the_request_allows_no_other_token_one_of_them_it_is() -> None:
    unlikely = [Candidate(token=7, value=1.0), Candidate(token=8, value=0.0)]
    confidences = [confidence for _, confidence in scored(unlikely, temperature=0.0, width=4)]
    assert math.fsum(confidences) == pytest.approx(1.0)
    assert confidences[0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert scored(unlikely[:1], temperature=0.0, width=4) == ((7, 1.0),)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_says_nothing(wrong: float) -> None:
    good = Candidate(token=1, value=0.5)
    bad = Candidate(token=2, value=wrong)
    assert len(scored([good], temperature=1.0, width=2)) == 1
    assert scored([good, bad], temperature=1.0, width=2) == ()
    assert scored([], temperature=1.0, width=2) == ()
