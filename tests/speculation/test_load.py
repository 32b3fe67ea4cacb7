"""The number of cooperating drafters follows load, one step at a time, without flapping."""

from __future__ import annotations

import pytest

from contracts.errors import InvalidArgument
from speculation.load import Cooperation


def test_idle_means_more_and_backlog_means_fewer() -> None:
    cooperation = Cooperation(max_drafters=3, patience=4)
    answers = [cooperation.observe(busy_share=0.2, backlog_rounds=0.0) for _ in range(20)]
    assert answers == [1] * 3 + [2] * 4 + [3] * 13
    answers = [cooperation.observe(busy_share=1.0, backlog_rounds=3.0) for _ in range(20)]
    assert answers == [3] * 3 + [2] * 4 + [1] * 13


def test_a_load_at_the_threshold_does_not_flap() -> None:
    cooperation = Cooperation(patience=4)
    for index in range(200):
        cooperation.observe(busy_share=0.69 if index % 2 else 0.71, backlog_rounds=0.0)
    assert cooperation.num_drafters == 1


def test_one_odd_round_changes_nothing() -> None:
    cooperation = Cooperation(patience=4)
    for _ in range(40):
        cooperation.observe(busy_share=0.1, backlog_rounds=0.0)
    cooperation.observe(busy_share=1.0, backlog_rounds=50.0)
    assert cooperation.num_drafters == 3


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Cooperation(max_drafters=0)
