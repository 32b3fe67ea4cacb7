"""Calibration: it finds known curves, stays monotone, follows changes, and merges to what one would have learned."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, Epoch, SequenceId, Verdict
from contracts.verdict import walk
from speculation.calibration import Calibrator
from speculation.scores import ScoreKind
from speculation.tree import TokenTree

A, B = DrafterId("a"), DrafterId("b")
KIND = ScoreKind.PROBABILITY
GRID = [index / 40 for index in range(41)]
Curve = Callable[[float], float]

CURVES: dict[str, Curve] = {
    "over-confident": lambda score: 0.6 * score,
    "squared": lambda score: score * score,
    "under-confident": lambda score: math.sqrt(score),
    "a step": lambda score: 0.8 if score > 0.5 else 0.2,
    "flat": lambda score: 0.3,
}


def teach(
    calibrator: Calibrator, curve: Curve, num: int, *, seed: int = 0, depths: int = 1, who: DrafterId = A
) -> None:
    rng = random.Random(seed)
    for _ in range(num):
        score = rng.random()
        calibrator.learn(who, KIND, rng.randint(1, depths), score, chosen=rng.random() < curve(score))


def error(calibrator: Calibrator, curve: Curve, depth: int = 1) -> float:
    """Mean distance from the truth over all scores."""
    return sum(abs(calibrator.confidence(A, KIND, depth, score) - curve(score)) for score in GRID) / len(GRID)


@pytest.mark.parametrize("name", CURVES)
def test_recovers_a_known_curve(name: str) -> None:
    calibrator = Calibrator(horizon=2000.0)
    teach(calibrator, CURVES[name], 3000)
    assert error(calibrator, CURVES[name]) < 0.05
    report = calibrator.report(A)
    assert report.expected_calibration_error < 0.04
    best = sum(curve * (1.0 - curve) for curve in map(CURVES[name], GRID)) / len(GRID)  # what no forecast can avoid
    assert best - 0.03 < report.brier_score < best + 0.03


@settings(max_examples=40)
@given(
    outcomes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 20), st.booleans()), max_size=60),
    horizon=st.sampled_from([1.5, 10.0, 300.0, math.inf]),
)
def test_is_always_monotone_and_a_chance_whatever_it_learned(
    outcomes: list[tuple[float, int, bool]], horizon: float
) -> None:
    calibrator = Calibrator(horizon=horizon)
    for score, depth, chosen in outcomes:
        calibrator.learn(A, KIND, depth, score, chosen=chosen)
    scores = sorted([*GRID, *(score for score, _, _ in outcomes)])
    for depth in (1, 2, 16, 99):
        confidences = [calibrator.confidence(A, KIND, depth, score) for score in scores]
        assert sorted(confidences) == confidences
        assert all(0.0 < confidence < 1.0 for confidence in confidences)


def test_is_robust_at_the_start() -> None:
    calibrator = Calibrator()
    assert calibrator.confidence(A, KIND, 1, 0.7) == 0.7  # nothing known: believed as it says
    assert 0.0 < calibrator.confidence(A, KIND, 1, 0.0) < calibrator.confidence(A, KIND, 1, 1.0) < 1.0
    calibrator.learn(A, KIND, 1, 0.7, chosen=False)
    assert 0.3 < calibrator.confidence(A, KIND, 1, 0.7) < 0.7  # one verdict moves it, but proves little
    calibrator.learn(A, KIND, 1, 0.7, chosen=True)
    assert calibrator.confidence(A, KIND, 1, 0.7) > 0.4


def test_a_wild_drafter_is_discounted_at_once_and_everywhere() -> None:
    calibrator = Calibrator()
    for _ in range(6):
        calibrator.learn(A, KIND, 1, 0.99, chosen=False)
    assert calibrator.confidence(A, KIND, 1, 0.99) < 0.1
    assert calibrator.confidence(A, KIND, 7, 0.99) < 0.15  # at depths never tested
    assert calibrator.confidence(A, KIND, 1, 0.6) < 0.25  # and at scores never tested
    assert calibrator.confidence(B, KIND, 1, 0.99) == 0.99  # the others are not to blame
    assert calibrator.confidence(A, ScoreKind.MARGIN, 1, 0.99) == 0.99


def test_depths_differ_where_there_is_data_and_pool_where_there_is_none() -> None:
    calibrator = Calibrator(horizon=math.inf)
    rng = random.Random(3)
    for _ in range(4000):
        score, depth = rng.random(), rng.choice([1, 4])
        calibrator.learn(A, KIND, depth, score, chosen=rng.random() < score * (0.9 if depth == 1 else 0.4))
    assert error(calibrator, lambda score: 0.9 * score, depth=1) < 0.04
    assert error(calibrator, lambda score: 0.4 * score, depth=4) < 0.04
    assert error(calibrator, lambda score: 0.65 * score, depth=2) < 0.04  # never seen: all depths together


@pytest.mark.parametrize(("before", "after"), [("over-confident", "under-confident"), ("under-confident", "flat")])
def test_a_drafter_that_changes_is_followed_within_two_horizons(before: str, after: str) -> None:
    calibrator = Calibrator(horizon=300.0)
    teach(calibrator, CURVES[before], 3000)
    apart = error(calibrator, CURVES[after])
    teach(calibrator, CURVES[after], 600, seed=1)
    assert apart > 0.2
    assert error(calibrator, CURVES[after]) < 0.09


def test_without_forgetting_it_would_not_follow() -> None:
    calibrator = Calibrator(horizon=math.inf)
    teach(calibrator, CURVES["over-confident"], 3000)
    teach(calibrator, CURVES["under-confident"], 600, seed=1)
    assert error(calibrator, CURVES["under-confident"]) > 0.2


def test_merging_equals_having_learned_from_both() -> None:
    one, other, both = (Calibrator(horizon=math.inf) for _ in range(3))
    for seed, part in ((1, one), (2, other)):
        for calibrator in (part, both):
            teach(calibrator, CURVES["squared"], 500, seed=seed, depths=4)
            teach(calibrator, CURVES["flat"], 100 * seed, seed=seed, who=B)
    other_way = refitted(other)
    other_way.merge(one)
    one.confidence(A, KIND, 1, 0.5)  # fitted before: the merge has to be noticed
    one.merge(other)
    for learned in (other_way, refitted(both)):
        for who in (A, B):
            for depth in (1, 3, 9):
                for score in GRID:
                    expected = learned.confidence(who, KIND, depth, score)
                    assert one.confidence(who, KIND, depth, score) == pytest.approx(expected, abs=1e-9)
    assert one.report().num_observations == both.report().num_observations == 1300


def refitted(calibrator: Calibrator) -> Calibrator:
    """A calibrator that has used all its evidence, where otherwise the last twentieth may wait."""
    fresh = Calibrator(horizon=calibrator.horizon)
    fresh.merge(calibrator)
    return fresh


def test_merging_with_forgetting_weighs_each_side_as_it_does_there() -> None:
    one, other = Calibrator(horizon=300.0), Calibrator(horizon=300.0)
    teach(one, lambda _: 0.2, 2000)
    teach(other, lambda _: 0.8, 2000)
    one.merge(other)
    assert error(one, lambda _: 0.5) < 0.07
    with pytest.raises(InvalidArgument, match="those that merge are set alike"):
        one.merge(Calibrator(horizon=10.0))


def test_what_is_reported_of_one_drafter_is_its_own() -> None:
    calibrator = Calibrator()
    calibrator.learn(A, KIND, 1, 0.7, chosen=True)
    for _ in range(2):
        calibrator.learn(B, KIND, 2, 0.4, chosen=False)
    assert calibrator.report(A).num_observations == 1
    assert calibrator.report(B).num_observations == pytest.approx(2, rel=1e-2)


@pytest.mark.parametrize("score", [float("nan"), -0.01, 1.01, float("inf")])
def test_a_score_out_of_range_is_refused(score: float) -> None:
    calibrator = Calibrator()
    with pytest.raises(InvalidArgument, match="raw score"):
        calibrator.learn(A, KIND, 1, score, chosen=True)
    with pytest.raises(InvalidArgument, match="raw score"):
        calibrator.confidence(A, KIND, 1, score)
    with pytest.raises(InvalidArgument, match="depth"):
        calibrator.learn(A, KIND, 0, 0.5, chosen=True)
    assert calibrator.report().num_observations == 0


def test_the_reported_error_is_that_of_the_predictions_made() -> None:
    """A drafter whose outcomes flip every time after the calibrator settled: the error shows before it adapts."""
    calibrator = Calibrator(horizon=1e9)
    for _ in range(1000):
        calibrator.learn(A, KIND, 1, 0.9, chosen=True)
    assert calibrator.report().expected_calibration_error < 0.01
    for _ in range(1000):
        calibrator.learn(A, KIND, 1, 0.9, chosen=False)
    assert calibrator.report().brier_score > 0.2


def test_once_calibrated_the_values_of_a_frontier_add_up_to_what_gets_accepted() -> None:
    """The whole loop: an over-confident drafter, its tree, rounds by the one walk, and learning from the verdicts."""
    rng, calibrator = random.Random(4), Calibrator(horizon=1000.0)
    claimed, expected, num_accepted = 0.0, 0.0, 0
    for number in range(1500):
        tree, chances = TokenTree(next_position=1), {}
        parents = [tree.root]
        for depth in (1, 2, 3):
            grown = []
            for parent in parents:
                weights = [rng.random() ** 3 for _ in range(4)]
                chances[parent] = [weight / sum(weights) for weight in weights]  # of tokens 0 to 3
                scores = [math.sqrt(chance) for chance in chances[parent][:3]]
                comb = [(token, calibrator.confidence(A, KIND, depth, score)) for token, score in enumerate(scores)]
                grown += [node for node in tree.add_comb(parent, comb, A, scores=scores) if node is not None]
            parents = grown
        frontier = tree.frontier(6)
        tree.start(frontier)
        rows = [tree.root, *frontier.ids]
        choices = [rng.choices(range(4), chances.get(row, [0.0, 0.0, 0.0, 1.0]))[0] for row in rows]
        accepted = walk(choices, [node.token for node in frontier.nodes], [node.parent for node in frontier.nodes])
        if number >= 500:
            expected += sum(tree[node].value for node in frontier.ids)
            claimed += sum(math.prod(tree[at].said[A].score for at in way(tree, node)) for node in frontier.ids)
            num_accepted += len(accepted)
        tokens = (*(frontier.nodes[index].token for index in accepted), choices[1 + (accepted[-1] if accepted else -1)])
        verdict = Verdict(sequence=SequenceId("s"), epoch=Epoch(0), position=1, accepted=tuple(accepted), tokens=tokens)
        for each in tree.settle(verdict).tested:
            calibrator.learn(A, KIND, each.depth, each.score, chosen=each.chosen)
    assert claimed > 1.3 * num_accepted  # what would be expected of the drafter's own word
    assert expected == pytest.approx(num_accepted, rel=0.06)


def way(tree: TokenTree, node: int) -> list[int]:
    """Ids from this node up to the root's child."""
    return [] if node == tree.root else [node, *way(tree, tree[node].parent)]


def test_names_that_come_and_go_take_no_more_and_more_room() -> None:
    calibrator = Calibrator()
    teach(calibrator, CURVES["flat"], 50)
    for number in range(1200):
        calibrator.learn(DrafterId(str(number)), KIND, 1, 0.9, chosen=True)
        if number % 500 == 0:
            calibrator.learn(A, KIND, 1, 0.9, chosen=False)  # it is still there
    known = [drafter for (drafter, _), _ in calibrator.sources()]
    assert len(known) == 1024
    assert {A, DrafterId("1199")} < set(known)
