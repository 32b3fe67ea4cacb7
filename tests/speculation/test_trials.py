"""Trials of little known drafters: none while things go well, more the worse they go, and ending by themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.trials import AcceptedLength, tried_as

RATES = st.floats(0.0, 1.0)


def test_the_share_rises_as_accepted_length_falls_below_the_threshold() -> None:
    shares = []
    for num_accepted in (4, 2, 1, 0):
        length = AcceptedLength(threshold=2.0)
        for _ in range(60):
            length.observe(num_accepted)
        shares.append(length.trial_share)
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.5, abs=0.01)
    assert AcceptedLength().trial_share == 0.0


@given(RATES, RATES, st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_what_is_tried_is_a_rate_and_optimism_falls_with_knowledge(
    score: float, share: float, few: float, many: float
) -> None:
    few, many = sorted((few, many))
    assert score <= tried_as(score, many, share) + 1e-12
    assert tried_as(score, many, share) <= tried_as(score, few, share) + 1e-12 <= 1.0 + 2e-12
    assert tried_as(score, few, 0.0) == score


def test_a_poor_known_drafter_gives_way_to_an_unknown_one_only_on_trial() -> None:
    known, unknown = (0.45, 500.0), (0.3, 0.0)
    assert tried_as(*known, 0.0) > tried_as(*unknown, 0.0)
    assert tried_as(*known, 0.4) < tried_as(*unknown, 0.4)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        AcceptedLength(threshold=0.0)
