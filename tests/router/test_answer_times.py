"""What a request that comes now can expect, while little and while much is known."""

from __future__ import annotations

from contracts.clock import VirtualClock
from router.answer_times import AnswerTimes

RUNNING = 8
ROUND_S = 0.02
TOKENS = 50


def expected_s(pace: AnswerTimes, num_before: int) -> float:
    return pace.answered_in_s(num_before, num_running=RUNNING, round_s=ROUND_S, num_together=RUNNING)


def test_nothing_is_promised_before_an_answer_was_seen() -> None:
    assert expected_s(AnswerTimes(VirtualClock()), 100) == 0.0


def test_the_first_of_a_crowd_are_told_what_rounds_and_answers_make_of_it() -> None:
    clock = VirtualClock()
    pace = AnswerTimes(clock)
    pace.ended(TOKENS)
    pace.nobody_waits()
    # Eight at a time, fifty rounds each: the ninth in line has the second turn after those that run.
    assert 2 * TOKENS * ROUND_S <= expected_s(pace, RUNNING) <= 1.5 * 2.2 * TOKENS * ROUND_S


def test_sequences_that_end_together_do_not_look_like_a_fast_fleet() -> None:
    clock = VirtualClock()
    pace = AnswerTimes(clock)
    pace.ended(TOKENS)
    pace.nobody_waits()
    before_s = expected_s(pace, 3 * RUNNING)
    pace.somebody_waits()
    clock.advance(0.001)
    for _ in range(RUNNING):
        pace.ended(TOKENS)
    assert expected_s(pace, 3 * RUNNING) > 0.5 * before_s


def test_in_a_crowd_the_pace_is_counted_and_forgotten_when_it_is_over() -> None:
    clock = VirtualClock()
    pace = AnswerTimes(clock)
    pace.somebody_waits()
    for _ in range(100):  # twice as slow as rounds alone would be
        clock.advance(2 * TOKENS * ROUND_S)
        for _ in range(RUNNING):
            pace.ended(TOKENS)
    counted_s = expected_s(pace, 0)
    assert 0.8 <= counted_s / (2 * TOKENS * ROUND_S * (RUNNING + 1) / RUNNING) <= 1.0
    pace.nobody_waits()
    assert expected_s(pace, 0) < 0.8 * counted_s


def test_time_between_rounds_counts_while_the_fleet_is_at_work() -> None:
    clock = VirtualClock()
    pace = AnswerTimes(clock)
    pace.ended(TOKENS)
    before_s = expected_s(pace, 0)
    for _ in range(200):
        clock.advance(2 * ROUND_S)
        pace.round_ended(ROUND_S, goes_on=True)
    assert 1.9 <= expected_s(pace, 0) / before_s <= 2.0
    pace.round_ended(ROUND_S, goes_on=False)
    clock.advance(1000.0)
    pace.round_ended(ROUND_S, goes_on=True)
    assert 1.8 <= expected_s(pace, 0) / before_s <= 2.1, "nobody was there"
    pace.interrupted()
    clock.advance(1000.0)
    pace.round_ended(ROUND_S, goes_on=True)
    assert 1.8 <= expected_s(pace, 0) / before_s <= 2.1, "the target was not there"
