"""Scores on one sequence: honest rates come out, claims do not pay, evidence fades, followers count the same."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.sequence_scores import SequenceScores, agreement_of, joined

A, B = DrafterId("a"), DrafterId("b")
RATES = st.floats(0.0, 1.0)


def scored(agreement: float, confidence: float, *, num: int = 400, seed: int = 0) -> float:
    scores, rng = SequenceScores({A: agreement}), random.Random(seed)
    for _ in range(num):
        scores.drafted(A, confidence=confidence, chosen=rng.random() < agreement)
    return scores.score(A)


@given(RATES, RATES, RATES)
def test_the_join_rises_with_both_and_never_exceeds_agreement(agreement: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert joined(agreement, low) <= joined(agreement, high) + 1e-12
    assert joined(low, agreement) <= joined(high, agreement) + 1e-12
    assert joined(agreement, 1.0) == pytest.approx(agreement)


@pytest.mark.parametrize("agreement", [0.2, 0.5, 0.8])
def test_an_honest_drafter_scores_its_agreement(agreement: float) -> None:
    assert sum(scored(agreement, agreement, seed=seed) for seed in range(20)) / 20 == pytest.approx(agreement, abs=0.06)


@pytest.mark.parametrize("agreement", [0.2, 0.4, 0.6])
def test_over_confidence_does_not_pay(agreement: float) -> None:
    claims = [agreement + step * (1.0 - agreement) / 4 for step in range(5)]
    means = [sum(scored(agreement, claim, seed=seed) for seed in range(10)) for claim in claims]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.85 * means[0]


def test_followers_count_the_same_as_drafters() -> None:
    drafting, following = SequenceScores({A: 0.5}), SequenceScores({A: 0.5})
    for index in range(60):
        drafting.drafted(A, confidence=0.75, chosen=index % 4 != 0)
        following.followed(A, agreement_of(matched=index % 4 != 0))
    assert following.score(A) == pytest.approx(drafting.score(A), abs=0.03)
    assert following.agreements() == drafting.agreements()
    assert agreement_of(logprob=math.log(0.25)) == pytest.approx(0.25)


def test_old_evidence_fades() -> None:
    scores = SequenceScores({A: 0.5, B: 0.5}, memory_tokens=32)
    for _ in range(1000):
        scores.followed(A, 1.0)
        scores.followed(B, 0.5)
    assert scores.score(A) > scores.score(B)
    for _ in range(40):
        scores.followed(A, 0.0)
        scores.followed(B, 0.5)
    assert scores.score(A) < scores.score(B)


def test_without_evidence_the_prior_stands_and_what_was_taught_is_forgotten() -> None:
    scores = SequenceScores({A: 0.3})
    assert scores.score(A) == pytest.approx(0.3)
    scores.followed(A, 1.0)
    scores.forget_agreements()
    assert scores.agreements() == []
    assert scores.score(A) > 0.3


@pytest.mark.parametrize("rate", [math.nan, -0.1, 1.1])
def test_impossible_rates_are_refused(rate: float) -> None:
    scores = SequenceScores({A: 0.5})
    with pytest.raises(InvalidArgument):
        scores.drafted(A, confidence=rate, chosen=True)
    with pytest.raises(InvalidArgument):
        scores.followed(A, rate)
    with pytest.raises(InvalidArgument, match="known are a"):
        scores.followed(B, 0.5)
