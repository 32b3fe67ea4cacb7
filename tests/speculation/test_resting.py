"""Drafts that never pay cost less and less; drafts that begin to pay are noticed."""

from __future__ import annotations

import pytest

from contracts.errors import InvalidArgument
from speculation.resting import Resting


def drafted(resting: Resting, num_rounds: int, num_checked: int) -> int:
    """In how many of so many rounds somebody drafts."""
    count = 0
    for _ in range(num_rounds):
        count += not resting.now
        resting.observe(0 if resting.now else num_checked)
    return count


def test_the_cost_of_worthless_drafts_goes_to_nothing() -> None:
    resting = Resting()
    assert drafted(resting, 100, 0) > 20
    assert drafted(resting, 1000, 0) <= 48
    assert drafted(resting, 10_000, 0) / 10_000 < 0.04


def test_drafts_that_pay_are_never_interrupted_even_if_not_every_round_takes_some() -> None:
    resting = Resting(patience=4)
    for index in range(200):
        assert not resting.observe(1 if index % 4 == 3 else 0)
    assert not resting.now


def test_a_text_that_becomes_easy_is_noticed_within_a_pause() -> None:
    resting = Resting()
    drafted(resting, 5000, 0)
    while resting.now:
        resting.observe(0)
    assert not resting.observe(3), "the trial bears fruit"
    assert drafted(resting, 8, 0) == 8
    assert drafted(resting, 16, 0) == 0, "and the next pause is the shortest again"
    assert drafted(resting, 1, 0) == 1


def test_pauses_that_make_no_sense_are_refused() -> None:
    for wrong in ({"patience": 0}, {"shortest_pause": 0}, {"shortest_pause": 9, "longest_pause": 8}):
        with pytest.raises(InvalidArgument, match="resting has"):
            Resting(**wrong)
