"""Fusion: which token is fused, what agreement is worth, and which kind of fusion pays."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.fusion import (
    Agreement,
    FusionKind,
    FusionMeasures,
    StepProposal,
    choose_kind,
    expected_committed,
    fuse_step,
    highest,
    voice_weight,
)

A, B, C, D = (DrafterId(name) for name in "abcd")
CHANCES = st.floats(0.0, 1.0)
SAID = st.dictionaries(st.sampled_from([A, B, C, D]), CHANCES, min_size=1)
WEIGHTS = st.dictionaries(st.sampled_from([A, B, C, D]), CHANCES)
MEASURES = FusionMeasures(
    step_s=0.002, link_s=0.001, round_s=0.02, every_step_acceptance=0.8, merged_acceptance=0.7, max_depth=8
)


def shuffled(said: dict[DrafterId, float], seed: int) -> dict[DrafterId, float]:
    items = list(said.items())
    random.Random(seed).shuffle(items)
    return dict(items)


@given(said=SAID, weights=WEIGHTS, seed=st.integers(0, 99))
def test_agreement_is_a_chance_order_free_and_no_less_than_anyone_alone(
    said: dict[DrafterId, float], weights: dict[DrafterId, float], seed: int
) -> None:
    combine = Agreement(weights)
    assert max(weights.get(drafter, 1.0) * said[drafter] for drafter in said) <= combine(said) <= 1.0
    assert combine(shuffled(said, seed)) == combine(said)


@given(said=SAID, weights=WEIGHTS, rise=CHANCES, heavier=CHANCES)
def test_more_confidence_more_drafters_and_more_weight_never_lower_it(
    said: dict[DrafterId, float], weights: dict[DrafterId, float], rise: float, heavier: float
) -> None:
    fused = Agreement(weights)(said) - 1e-12
    for drafter in (A, B, C, D):
        more = said | {drafter: max(said.get(drafter, 0.0), rise)}
        assert Agreement(weights)(more) >= fused
        heavy = weights | {drafter: max(weights.get(drafter, 1.0), heavier)}
        assert Agreement(heavy)(said) >= fused


def test_agreement_goes_from_silence_to_independence() -> None:
    said = {A: 0.5, B: 0.6}
    assert Agreement()(said) == pytest.approx(0.8)
    assert Agreement({A: 0.0})(said) == pytest.approx(0.6)
    assert Agreement({A: 0.5, B: 0.5})(said) == pytest.approx(1.0 - 0.75 * 0.7)
    assert Agreement()({A: 0.3}) == 0.3  # exactly
    assert Agreement({A: 0.1})({A: 0.5}) == pytest.approx(0.05)
    with pytest.raises(InvalidArgument, match="weight of a"):
        Agreement({A: 1.5})


@given(best=CHANCES, scores=st.tuples(CHANCES, CHANCES))
def test_a_voice_counts_the_less_the_better_another_is(best: float, scores: tuple[float, float]) -> None:
    worse, better = sorted(scores)
    assert 0.0 <= voice_weight(worse, best) <= voice_weight(better, best) <= 1.0
    assert voice_weight(best, best) == 1.0
    assert voice_weight(0.0, 1.0) < 1e-6


@given(
    proposals=st.dictionaries(
        st.sampled_from([A, B, C]), st.lists(st.tuples(st.integers(0, 4), CHANCES), max_size=4), max_size=3
    ),
    seed=st.integers(0, 99),
)
def test_the_fused_token_is_the_most_confident_and_everyone_else_a_sibling(
    proposals: dict[DrafterId, list[tuple[int, float]]], seed: int
) -> None:
    given_proposals = [StepProposal(drafter=d, candidates=tuple(c)) for d, c in proposals.items()]
    fused = fuse_step(given_proposals)
    said = [(confidence, -token) for candidates in proposals.values() for token, confidence in candidates]
    assert [(fused[0].confidence, -fused[0].token)] == [max(said)] if said else fused == ()
    assert sorted(candidate.token for candidate in fused) == sorted({-token for _, token in said})
    assert [c.confidence for c in fused] == sorted((c.confidence for c in fused), reverse=True)
    random.Random(seed).shuffle(given_proposals)
    assert fuse_step(given_proposals) == fused


def test_with_agreement_two_drafters_outvote_a_louder_third() -> None:
    proposals = [
        StepProposal(drafter=A, candidates=((7, 0.5), (8, 0.2))),
        StepProposal(drafter=B, candidates=((7, 0.5),)),
        StepProposal(drafter=C, candidates=((9, 0.6),)),
    ]
    assert [candidate.token for candidate in fuse_step(proposals)] == [9, 7, 8]
    assert [candidate.token for candidate in fuse_step(proposals, Agreement())] == [7, 9, 8]
    assert fuse_step(proposals)[1].confidence_of == {A: 0.5, B: 0.5}
    assert highest({A: 0.2, B: 0.4}) == 0.4


@pytest.mark.parametrize("confidence", [float("nan"), -0.1, 1.1])
def test_a_confidence_that_is_no_chance_is_refused(confidence: float) -> None:
    with pytest.raises(InvalidArgument, match="lies between 0 and 1"):
        fuse_step([StepProposal(drafter=A, candidates=((1, confidence),))])


def test_expected_tokens_are_those_of_a_simulated_chain() -> None:
    rng = random.Random(1)
    whole = replace(MEASURES, link_s=0.002, round_s=0.02)  # five fused steps, nine free-running ones, at most eight
    for kind, acceptance, num_steps in ((FusionKind.EVERY_STEP, 0.8, 5), (FusionKind.MERGED, 0.7, 8)):
        total = 0
        for _ in range(20_000):
            length = 0
            while length < num_steps and rng.random() < acceptance:
                length += 1
            total += 1 + length
        assert expected_committed(whole, kind) == pytest.approx(total / 20_000, rel=0.02)


def test_delay_favours_merging_and_gain_favours_every_step() -> None:
    near, far = replace(MEASURES, link_s=0.0), replace(MEASURES, link_s=0.01)
    no_gain = replace(near, every_step_acceptance=0.7)
    hopeless = replace(MEASURES, link_s=0.019)  # no draft is ever in time
    for current in FusionKind:
        assert choose_kind(near, current) is FusionKind.EVERY_STEP
        assert choose_kind(far, current) is FusionKind.MERGED
        assert choose_kind(no_gain, current) is current  # nothing to choose: stay
        assert choose_kind(hopeless, current) is current
        assert expected_committed(hopeless, current) == 1.0
        assert choose_kind(far, current, fixed=FusionKind.EVERY_STEP) is FusionKind.EVERY_STEP


def test_the_choice_does_not_flap_when_measurements_wander() -> None:
    """Around the delay where both are equal: each kind holds in a band, and jitter inside the band changes nothing."""
    rng, kind, num_changes = random.Random(0), FusionKind.EVERY_STEP, 0
    low, high = 0.0, 0.02
    for _ in range(60):
        middle = (low + high) / 2
        measures = replace(MEASURES, link_s=middle)
        fused, merged = (expected_committed(measures, kind) for kind in FusionKind)
        low, high = (middle, high) if fused > merged else (low, middle)
    assert 0.0005 < low < 0.01
    for _ in range(500):
        now = choose_kind(replace(MEASURES, link_s=low * rng.uniform(0.9, 1.1)), kind)
        num_changes += now is not kind
        kind = now
    assert num_changes == 0


@given(
    step_s=st.floats(0, 10), link_s=st.floats(0, 10), round_s=st.floats(0, 10), chance=CHANCES, depth=st.integers(0, 99)
)
def test_any_measures_give_a_finite_figure(
    step_s: float, link_s: float, round_s: float, chance: float, depth: int
) -> None:
    measures = FusionMeasures(
        step_s=step_s,
        link_s=link_s,
        round_s=round_s,
        every_step_acceptance=chance,
        merged_acceptance=chance,
        max_depth=depth,
    )
    for kind in FusionKind:
        assert 1.0 - 1e-9 <= expected_committed(measures, kind) <= depth + 1.0 + 1e-6


@pytest.mark.parametrize(
    "wrong", [{"step_s": -1.0}, {"link_s": float("nan")}, {"merged_acceptance": 1.1}, {"max_depth": -1}]
)
def test_wrong_measures_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        replace(MEASURES, **wrong)  # type: ignore[arg-type]  # the point of the test
