"""Which rule accepts more: the orders that are theorems hold in every case, those that papers claim on average."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from speculation.rules.compare import Shape, dirichlet_models, exact_tokens, temperature_models, upper_bound
from speculation.rules.draft import Model, normalised
from speculation.rules.optimal_transport import acceptance_bound
from speculation.rules.registry import RULES, DraftKind

NUM_SEEDS = 6
EPSILON = 1e-9
FAMILIES = ("dirichlet", "cold")
PATH_RULES = [name for name, rule in RULES.items() if rule.kind is not DraftKind.DISTINCT and name != "shared_noise"]


def pair(family: str, vocab: int, seed: int) -> tuple[Model, Model]:
    if family == "cold":
        return temperature_models(vocab, temperature=0.4, error=1.0, seed=seed)
    return dirichlet_models(vocab, concentration=0.7, likeness=0.3, seed=seed)


@cache
def tokens(name: str, family: str, vocab: int, depth: int, num_paths: int, seed: int) -> float:
    target, drafter = pair(family, vocab, seed)
    return exact_tokens(RULES[name], target, drafter, Shape(num_paths=num_paths, depth=depth))


CASES = [(family, seed) for family in FAMILIES for seed in range(NUM_SEEDS)]


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (4, 2)])
def test_block_never_accepts_less_than_standard(shape: tuple[int, int]) -> None:
    gains = [
        tokens("block", *case[:1], *shape, 1, case[1]) - tokens("standard", *case[:1], *shape, 1, case[1])
        for case in CASES
    ]
    assert min(gains) > -EPSILON
    assert max(gains) > 0.02


def test_with_one_path_rules_fall_into_two_kinds() -> None:
    for family, seed in CASES:
        by_token = [
            tokens(n, family, 3, 2, 1, seed) for n in ("standard", "specinfer", "spectr", "optimal_transport", "rsd")
        ]
        by_path = [
            tokens(n, family, 3, 2, 1, seed) for n in ("block", "traversal", "greedy_multipath", "traversal_distinct")
        ]
        assert np.ptp(by_token) < EPSILON
        assert np.ptp(by_path) < EPSILON


@pytest.mark.parametrize(("vocab", "num_paths"), [(3, 2), (4, 3)])
def test_nothing_beats_optimal_transport_at_one_position(vocab: int, num_paths: int) -> None:
    for family, seed in CASES[::2]:
        target, drafter = pair(family, vocab, seed)
        p, q = normalised(target(())), normalised(drafter(()))
        best = 1.0 + acceptance_bound(p, q, num_paths)
        best_distinct = 1.0 + acceptance_bound(p, q, num_paths, replacement=False)
        assert tokens("optimal_transport", family, vocab, 1, num_paths, seed) == pytest.approx(best, abs=EPSILON)
        assert tokens("optimal_transport_distinct", family, vocab, 1, num_paths, seed) == pytest.approx(best_distinct)
        for name in PATH_RULES:
            assert tokens(name, family, vocab, 1, num_paths, seed) < best + EPSILON
        for name in ("rsd", "traversal_distinct"):
            assert tokens(name, family, vocab, 1, num_paths, seed) < best_distinct + EPSILON


@pytest.mark.parametrize(("vocab", "num_paths"), [(3, 2), (4, 3)])
def test_sequential_selection_reaches_its_share_of_optimal_transport(vocab: int, num_paths: int) -> None:
    share = 1.0 - (1.0 - 1.0 / num_paths) ** num_paths
    for family, seed in CASES:
        best = tokens("optimal_transport", family, vocab, 1, num_paths, seed) - 1.0
        found = tokens("spectr", family, vocab, 1, num_paths, seed) - 1.0
        assert found > share * best - EPSILON


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 2, 3)])
def test_nothing_beats_the_bound_over_prefixes(shape: tuple[int, int, int]) -> None:
    vocab, depth, num_paths = shape
    for family, seed in CASES[::3]:
        target, drafter = pair(family, vocab, seed)
        best = upper_bound(target, drafter, Shape(num_paths=num_paths, depth=depth))
        for name in PATH_RULES:
            assert tokens(name, family, *shape, seed) < best + EPSILON, name


def test_more_paths_never_hurt_greedy_multipath_at_one_position() -> None:
    for family, seed in CASES:
        found = [tokens("greedy_multipath", family, 4, 1, k, seed) for k in (1, 2, 3)]
        assert found == pytest.approx(sorted(found), abs=EPSILON)
        assert found[0] == pytest.approx(tokens("block", family, 4, 1, 1, seed), abs=EPSILON)


@pytest.mark.parametrize(
    ("better", "worse", "shape", "least_gain"),
    [
        ("traversal", "specinfer", (3, 2, 2), 0.002),
        ("traversal_distinct", "rsd", (3, 2, 2), 0.002),
        ("traversal", "block", (3, 2, 2), 0.03),
        ("greedy_multipath", "block", (3, 2, 2), 0.05),
        ("spectr", "specinfer", (3, 2, 2), 0.002),
        ("rsd", "specinfer", (4, 1, 3), 0.03),
    ],
)
def test_claimed_orders_hold_on_average(
    better: str, worse: str, shape: tuple[int, int, int], least_gain: float
) -> None:
    for family in FAMILIES:
        gains = [tokens(better, family, *shape, s) - tokens(worse, family, *shape, s) for s in range(NUM_SEEDS)]
        assert float(np.mean(gains)) > least_gain, family


def test_drawing_without_replacement_gains_most_where_the_drafter_is_sure() -> None:
    """RSD's claim: at low temperature independent draws repeat one another."""

    def gain(temperature: float) -> float:
        shape, gains = Shape(num_paths=2, depth=1), []
        for seed in range(30):
            target, drafter = temperature_models(3, temperature=temperature, error=1.0, seed=seed)
            found, other = (exact_tokens(RULES[name], target, drafter, shape) for name in ("rsd", "specinfer"))
            gains.append(found - other)
        assert min(gains) > -EPSILON
        return float(np.mean(gains))

    assert gain(0.3) > 2.0 * gain(3.0) > 0.0
