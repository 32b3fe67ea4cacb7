"""Raw scores: bounded, and above temperature 0 the margin tells agreement apart, alike at every temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.scores import ScoreKind, kind_at, raw_scores, scaled


@given(
    values=st.lists(st.floats(-1e6, 1e6), max_size=6).map(lambda values: sorted(values, reverse=True)),
    temperature=st.floats(0, 100),
)
def test_every_score_lies_between_0_and_1(values: list[float], temperature: float) -> None:
    scores = raw_scores(values, temperature=temperature)
    assert len(scores) == len(values)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_what_a_score_is_made_of_follows_the_temperature() -> None:
    assert raw_scores([math.log(0.3), math.log(0.2), math.log(0.1)], temperature=0.0) == pytest.approx(
        [9 / 14, 4 / 14, 1 / 14]
    )
    assert raw_scores([2.0, 2.0], temperature=0.7) == [0.5, 0.5]
    assert (kind_at(0.0), kind_at(0.7)) == (ScoreKind.PROBABILITY, ScoreKind.MARGIN)
    assert raw_scores([5.0], temperature=0.0) == raw_scores([5.0], temperature=1.0) == [1.0]
    assert raw_scores([], temperature=1.0) == []
    assert scaled(3.0, 1.0, 5.0) == 0.5
    for wrong in (0.0, 6.0, float("nan")):
        with pytest.raises(InvalidArgument, match=r"declared range is 1\.0 to 5\.0"):
            scaled(wrong, 1.0, 5.0)
    for values, temperature in (([math.nan], 1.0), ([0.0], math.nan), ([0.0], -1.0)):
        with pytest.raises(InvalidArgument, match="none of them is NaN"):
            raw_scores(values, temperature=temperature)


def test_at_temperature_0_one_curve_serves_first_and_second_choices() -> None:
    """How often the target takes a first choice and a runner-up of the same score; probabilities mix them up."""
    rng = np.random.default_rng(3)
    draft = rng.normal(0.0, 2.0, (20000, 30))
    target = (draft + rng.normal(0.0, 0.7, draft.shape)).argmax(1)
    ranked = np.argsort(-draft, axis=1)[:, :4]
    taken = ranked == target[:, None]
    scores = np.array([raw_scores(row, temperature=0.0) for row in np.take_along_axis(draft, ranked, 1).tolist()])
    probs = np.take_along_axis(np.exp(draft) / np.exp(draft).sum(1, keepdims=True), ranked, 1)

    def difference(by: np.ndarray) -> float:
        of = [taken[:, rank][(by[:, rank] > 0.3) & (by[:, rank] < 0.45)].mean() for rank in (0, 1)]
        return abs(float(of[0] - of[1]))

    assert difference(scores) < 0.1 < 0.2 < difference(probs)


def drafts(temperature: float, num: int = 6000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margin score, draft probability, and agreement with a target that differs from the draft and shares its noise.
    Each [num]."""
    rng = np.random.default_rng(7)
    draft_logits = rng.normal(0.0, 2.5, (num, 50))
    target_logits = draft_logits + rng.normal(0.0, 0.8, (num, 50))
    noise = rng.gumbel(size=(num, 50))
    draft_noisy, target_noisy = draft_logits / temperature + noise, target_logits / temperature + noise
    choice = draft_noisy.argmax(1)
    best = np.sort(draft_noisy, axis=1)[:, ::-1]
    scores = [raw_scores(row[:2], temperature=temperature)[0] for row in best.tolist()]
    exps = np.exp(draft_logits / temperature)
    probs = exps[np.arange(num), choice] / exps.sum(1)
    return np.array(scores), probs, choice == target_noisy.argmax(1)


def ranking(score: np.ndarray, agreed: np.ndarray) -> float:
    """The chance that an agreeing draft has a higher score than one that does not (area under the ROC curve)."""
    ranks = score.argsort().argsort() + 1.0
    num_agreed, num_not = agreed.sum(), (~agreed).sum()
    return float((ranks[agreed].sum() - num_agreed * (num_agreed + 1) / 2) / (num_agreed * num_not))


def test_above_temperature_0_the_margin_tells_more_than_the_probability_and_one_curve_serves_all() -> None:
    rates = []
    for temperature in (0.4, 0.7, 1.0):
        score, probs, agreed = drafts(temperature)
        assert ranking(score, agreed) > ranking(probs, agreed) + 0.03
        bins = np.clip(((score - 0.5) * 10).astype(int), 0, 4)
        rates.append([agreed[bins == index].mean() for index in range(5)])
        assert sorted(rates[-1]) == rates[-1]  # more margin, more agreement
    spread = np.ptp(np.array(rates), axis=0)  # [5]: how far the same score differs between temperatures
    assert spread.max() < 0.08
