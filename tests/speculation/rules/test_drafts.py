"""Coins, drafts and names: what the rules stand on."""

from __future__ import annotations

import dataclasses
import doctest
from collections import Counter

import numpy as np
import pytest

from contracts.errors import InvalidArgument
from speculation.rules import coin as coin_module
from speculation.rules import greedy_multipath, rsd, specinfer, spectr
from speculation.rules.coin import Coin, RandomCoin, outcomes
from speculation.rules.compare import Shape, draw, exact_tokens, mean_tokens
from speculation.rules.draft import draw_paths, draw_tree, normalised
from speculation.rules.registry import RULES, DraftKind, rule_named
from speculation.rules.rsd import gumbel_top_k
from speculation.rules.spectr import best_gamma
from tests.speculation.rules.tiny import PAIRS, models


def test_outcomes_are_all_there_is() -> None:
    def run(coin: Coin) -> tuple[int, ...]:
        first = coin.choose(np.array([1.0, 0.0, 3.0]))
        return (first, coin.flip(0.5)) if first else (first,)

    assert {outcome: p for p, outcome in outcomes(run)} == {(0,): 0.25, (2, False): 0.375, (2, True): 0.375}


def test_the_example_of_the_coin_holds() -> None:
    assert doctest.testmod(coin_module).attempted == 1
    assert doctest.testmod(coin_module).failed == 0


def test_certain_sides_have_no_other() -> None:
    assert [(p, o) for p, o in outcomes(lambda coin: (coin.flip(1.5), coin.flip(-0.5)))] == [(1.0, (True, False))]


def test_a_random_coin_never_falls_on_weight_zero() -> None:
    largest = np.nextafter(1.0, 0.0)
    for uniform in (0.0, largest):
        coin = RandomCoin(lambda uniform=uniform: uniform)  # type: ignore[misc]
        assert coin.choose(np.array([0.0, 0.1, 0.2, 0.0])) in (1, 2)
        assert coin.flip(1.0)
        assert not coin.flip(0.0)


def test_a_random_coin_falls_as_it_should() -> None:
    coin = RandomCoin(np.random.default_rng(5).random)
    counts = Counter(coin.choose(np.array([1.0, 0.0, 3.0])) for _ in range(20_000))
    assert counts[2] / 20_000 == pytest.approx(0.75, abs=0.015)
    assert sum(coin.flip(0.3) for _ in range(20_000)) / 20_000 == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [np.nan, 1.0], [-1.0, 2.0], [np.inf, 1.0]])
def test_weights_that_are_no_distribution_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidArgument, match="finite"):
        normalised(np.array(weights))


def test_paths_share_prefixes_and_are_found_again() -> None:
    target, drafter = models(PAIRS["dirichlet"], 2)
    for seed in range(50):
        coin = RandomCoin(np.random.default_rng(seed).random)
        draft = draw_paths(target, drafter, num_paths=4, depth=3, coin=coin)
        paths = draft.paths()
        assert [len(path) for path in paths] == [3] * 4
        assert paths[0] == draft.first_path()
        texts = {(*_prefix(draft.parents, draft.tokens, node),) for node in range(len(draft.tokens))}
        assert len(texts) == len(draft.tokens)  # no prefix twice


def _prefix(parents: tuple[int, ...], tokens: tuple[int, ...], node: int) -> list[int]:
    return [*(_prefix(parents, tokens, parents[node]) if parents[node] >= 0 else []), tokens[node]]


def test_without_replacement_draws_differ_and_end_with_the_support() -> None:
    target, drafter = models(PAIRS["zeros"], 3)
    coin = RandomCoin(np.random.default_rng(0).random)
    draft = draw_tree(target, drafter, branching=(3,), replacement=False, coin=coin)
    assert len(draft.draws[0]) == np.count_nonzero(drafter(()))
    assert len(set(draft.tokens)) == len(draft.tokens)


def test_gumbel_top_k_draws_without_replacement() -> None:
    probs = np.array([0.5, 0.0, 0.3, 0.2])
    rng = np.random.default_rng(1)
    counts = Counter(tuple(gumbel_top_k(probs, rng.gumbel(size=4), 2)) for _ in range(20_000))
    for (first, second), count in counts.items():
        expected = probs[first] * probs[second] / (1.0 - probs[first])
        assert count / 20_000 == pytest.approx(expected, abs=0.015)
    assert len(counts) == 6
    assert len(gumbel_top_k(probs, rng.gumbel(size=4), 4)) == 3


def test_rules_refuse_drafts_for_which_they_would_be_wrong() -> None:
    target, drafter = models(PAIRS["dirichlet"], 3)
    coin = RandomCoin(np.random.default_rng(0).random)
    distinct = draw_tree(target, drafter, branching=(2, 1), replacement=False, coin=coin)
    paths = draw_paths(target, drafter, num_paths=2, depth=2, coin=coin)
    for settle in (specinfer.settle, spectr.settle, greedy_multipath.settle):
        with pytest.raises(InvalidArgument, match="without replacement"):
            settle(distinct, coin)
    with pytest.raises(InvalidArgument, match="with replacement"):
        rsd.settle(paths, coin)
    tree = draw_tree(target, drafter, branching=(1, 2), replacement=True, coin=coin)
    with pytest.raises(InvalidArgument, match="whole paths"):
        greedy_multipath.settle(tree, coin)


def test_a_draft_that_cannot_have_been_drawn_is_refused() -> None:
    target, drafter = models(PAIRS["dirichlet"], 3)
    draft = draw_paths(target, drafter, num_paths=1, depth=1, coin=RandomCoin(np.random.default_rng(0).random))
    with pytest.raises(InvalidArgument, match="probability 0"):
        dataclasses.replace(draft, draft_probs=np.zeros_like(draft.draft_probs))
    with pytest.raises(InvalidArgument, match="drawn twice"):
        dataclasses.replace(draft, draws=((0, 0), ()), replacement=False)


def test_the_divisor_is_the_smallest_that_leaves_no_negative_residual() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
        gamma = best_gamma(p, q, 3)
        assert 1.0 <= gamma <= 3.0
        for divisor, sign in ((gamma * (1 + 1e-9), 1.0), (gamma * (1 - 1e-3), -1.0)):
            passing = np.minimum(q, p / divisor)
            one = passing.sum()
            least = (p - passing * (1.0 - (1.0 - one) ** 3) / one).min()
            assert sign * least > -1e-12


def test_an_empty_draft_commits_one_token_of_the_target() -> None:
    target, drafter = models(PAIRS["dirichlet"], 3)
    for rule in RULES.values():
        coin = RandomCoin(np.random.default_rng(0).random)
        draft = draw_tree(target, drafter, branching=(), replacement=rule.kind is not DraftKind.DISTINCT, coin=coin)
        law = {settled.next_token: p for p, settled in outcomes(lambda c, d=draft, r=rule: r.settle(d, c))}  # type: ignore[misc]
        assert [law[x] for x in range(3)] == pytest.approx(normalised(target(())).tolist())


def test_sampling_agrees_with_enumeration() -> None:
    target, drafter = models(PAIRS["dirichlet"], 3)
    shape = Shape(num_paths=2, depth=2)
    means = mean_tokens(target, drafter, shape, num_rounds=600, seed=3)
    assert list(means) == list(RULES)
    for name, mean in means.items():
        assert mean == pytest.approx(exact_tokens(RULES[name], target, drafter, shape), abs=0.15), name


def test_an_unknown_rule_is_answered_with_the_known_ones() -> None:
    assert rule_named("block") is RULES["block"]
    with pytest.raises(InvalidArgument, match=r"'blocks'.*standard, block"):
        rule_named("blocks")


def test_drafts_of_a_kind_have_the_same_budget() -> None:
    target, drafter = models(PAIRS["dirichlet"], 4)
    coin = RandomCoin(np.random.default_rng(0).random)
    for kind in (DraftKind.PATHS, DraftKind.DISTINCT):
        draft = draw(kind, target, drafter, Shape(num_paths=3, depth=2), coin)
        assert sum(len(drawn) for drawn in draft.draws) == 6
