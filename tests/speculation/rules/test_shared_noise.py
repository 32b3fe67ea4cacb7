"""The house's rule: what it commits, how often drafts agree, and between which bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.types import ROOT
from speculation.rules.coin import RandomCoin
from speculation.rules.compare import Shape, dirichlet_models, exact_tokens, mean_shared_noise, shared_noise_comb
from speculation.rules.draft import Model, SampledDraft, draw_paths, normalised
from speculation.rules.registry import RULES
from speculation.rules.rsd import gumbel_top_k
from speculation.rules.shared_noise import bound, coupling, floor, match_probability, settle_by_noise
from tests.speculation.rules.tiny import PAIRS, models

_WEIGHT = st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 0.5, 1.0, 1.0, 2.0, 7.0])
_ROW = st.lists(_WEIGHT, min_size=4, max_size=4).filter(any).map(lambda row: normalised(np.array(row)))


@given(_ROW, _ROW)
def test_the_coupling_is_one(p: np.ndarray, q: np.ndarray) -> None:
    joint = coupling(p, q)
    assert joint.min() >= 0.0
    np.testing.assert_allclose(joint.sum(axis=1), p, atol=1e-12)
    np.testing.assert_allclose(joint.sum(axis=0), q, atol=1e-12)
    np.testing.assert_allclose(coupling(q, p), joint.T, atol=1e-12)


@given(_ROW, _ROW)
def test_agreement_lies_between_floor_and_bound(p: np.ndarray, q: np.ndarray) -> None:
    agreement = match_probability(p, q)
    assert agreement == pytest.approx(np.trace(coupling(p, q)), abs=1e-12)
    assert floor(p, q) - 1e-12 <= agreement <= bound(p, q) + 1e-12


@given(_ROW, _ROW)
def test_agreement_follows_the_formula(p: np.ndarray, q: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        formula = sum(1.0 / np.maximum(p / p[x], q / q[x]).sum() for x in range(len(p)) if p[x] > 0.0 and q[x] > 0.0)
    assert match_probability(p, q) == pytest.approx(formula, abs=1e-12)


@given(_ROW, _ROW)
def test_runners_up_only_help_and_all_of_them_are_enough(p: np.ndarray, q: np.ndarray) -> None:
    agreement = [match_probability(p, q, num_candidates) for num_candidates in (1, 2, 3, 4)]
    assert agreement == pytest.approx(sorted(agreement), abs=1e-9)
    assert agreement[-1] == pytest.approx(p[q > 0.0].sum(), abs=1e-9)


def test_two_tokens_agree_as_often_as_any_coupling_can() -> None:
    p, q = np.array([0.2, 0.8]), np.array([0.5, 0.5])
    assert match_probability(p, q) == pytest.approx(bound(p, q))


def test_the_floor_is_reached() -> None:
    """Tokens that both like equally, and for each side as much that only it likes."""
    p, q = np.array([0.7, 0.3, 0.0]), np.array([0.7, 0.0, 0.3])
    assert match_probability(p, q) == pytest.approx(floor(p, q))
    assert floor(p, q) < bound(p, q)


@pytest.mark.parametrize("num_candidates", [1, 2, 4])
def test_agreement_measured(num_candidates: int) -> None:
    rng = np.random.default_rng(7)
    p, q = rng.dirichlet(np.full(8, 0.7)), rng.dirichlet(np.full(8, 0.7))
    p = 0.5 * p + 0.5 * q
    num_draws = 40_000
    noise = rng.gumbel(size=(num_draws, 8))
    choices = np.argmax(np.log(p) + noise, axis=1)
    best = np.argsort(-(np.log(q) + noise), axis=1)[:, :num_candidates]
    measured = float((best == choices[:, None]).any(axis=1).mean())
    expected = match_probability(p, q, num_candidates)
    assert measured == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / num_draws))
    assert np.bincount(choices, minlength=8) / num_draws == pytest.approx(p, abs=0.01)


def plain_text(target: Model, noise: np.ndarray) -> tuple[int, ...]:
    """Decoding without any draft."""
    text: tuple[int, ...] = ()
    for row in noise:
        with np.errstate(divide="ignore"):
            text = (*text, int(np.argmax(np.log(normalised(target(text))) + row)))
    return text


def garbage(target: Model, vocab: int, depth: int, num_nodes: int, rng: np.random.Generator) -> SampledDraft:
    """A tree that nobody drew from anything, with repeated siblings and all."""
    tokens: list[int] = []
    parents: list[int] = []
    prefixes: list[tuple[int, ...]] = [()]
    while len(tokens) < num_nodes:
        row = int(rng.integers(len(prefixes)))
        if len(prefixes[row]) < depth:
            parents.append(row - 1 if row else ROOT)
            tokens.append(int(rng.integers(vocab)))
            prefixes.append((*prefixes[row], tokens[-1]))
    rows = np.array([normalised(target(prefix)) for prefix in prefixes])
    return SampledDraft(
        tokens=tuple(tokens),
        parents=tuple(parents),
        draws=((),) * len(prefixes),
        target_probs=rows,
        draft_probs=np.zeros_like(rows),
        replacement=True,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_plain_decodings_whatever_was_drafted(temperature: float) -> None:
    rng = np.random.default_rng(3)
    num_accepted = 0
    for seed in range(300):
        vocab, depth = 3, 3
        target, _ = models(list(PAIRS.values())[seed % len(PAIRS)], vocab, seed)
        noise = temperature * rng.gumbel(size=(depth + 1, vocab))
        draft = garbage(target, vocab, depth, int(rng.integers(0, 20)), rng)
        settled = settle_by_noise(draft, noise)
        committed = settled.committed(draft)
        assert committed == plain_text(target, noise)[: len(committed)]
        num_accepted += len(settled.accepted)
    assert num_accepted > 100


def test_tokens_per_round_of_the_comb_measured() -> None:
    target, drafter = dirichlet_models(5, concentration=0.7, likeness=0.4, seed=2)
    shape = Shape(num_paths=2, depth=3)
    rng = np.random.default_rng(11)
    counts = []
    for _ in range(4000):
        noise = rng.gumbel(size=(shape.depth + 1, 5))
        draft = comb(target, drafter, shape, noise)
        counts.append(len(settle_by_noise(draft, noise).accepted) + 1)
    error = float(np.std(counts)) / np.sqrt(len(counts))
    assert np.mean(counts) == pytest.approx(shared_noise_comb(target, drafter, shape), abs=4 * error)


def comb(target: Model, drafter: Model, shape: Shape, noise: np.ndarray) -> SampledDraft:
    """The drafter's choices as a path, with its runners-up beside it."""
    tokens: list[int] = []
    parents: list[int] = []
    rows = [normalised(target(()))]
    path: tuple[int, ...] = ()
    at = ROOT
    for depth in range(shape.depth):
        best = gumbel_top_k(normalised(drafter(path)), noise[depth], shape.num_paths)
        for token in best:
            tokens.append(token)
            parents.append(at)
            rows.append(normalised(target((*path, token))))
        at, path = len(tokens) - len(best), (*path, best[0])
    target_probs = np.array(rows)
    return SampledDraft(
        tokens=tuple(tokens),
        parents=tuple(parents),
        draws=((),) * len(rows),
        target_probs=target_probs,
        draft_probs=np.zeros_like(target_probs),
        replacement=True,
    )


def test_the_enumerable_form_has_the_law_of_the_served_one() -> None:
    target, drafter = dirichlet_models(3, concentration=0.7, likeness=0.3, seed=4)
    shape = Shape(num_paths=1, depth=2)
    assert exact_tokens(RULES["shared_noise"], target, drafter, shape) == pytest.approx(
        shared_noise_comb(target, drafter, shape)
    )


def test_at_temperature_zero_it_is_greedy_decoding() -> None:
    target, drafter = models(PAIRS["dirichlet"], 4)
    for seed in range(20):
        draft = draw_paths(target, drafter, num_paths=3, depth=3, coin=RandomCoin(np.random.default_rng(seed).random))
        settled = settle_by_noise(draft, np.zeros((4, 4)))
        for row, node in zip((0, *(n + 1 for n in settled.accepted)), settled.accepted, strict=False):
            assert draft.tokens[node] == int(np.argmax(draft.target_probs[row]))


@pytest.mark.parametrize("num_paths", [1, 3])
def test_drawing_the_noise_gives_what_is_computed(num_paths: int) -> None:
    target, drafter = dirichlet_models(6, concentration=0.5, likeness=0.5, seed=4)
    shape, asked = Shape(num_paths=num_paths, depth=3), list[tuple[int, ...]]()
    drawn = mean_shared_noise(target, drafter, shape, num_rounds=4000, seed=1, prepare=asked.extend)
    # Between 1 and 4 tokens: the mean of 4,000 rounds is within 0.06 but for four deviations.
    assert drawn == pytest.approx(shared_noise_comb(target, drafter, shape), abs=0.06)
    assert {len(path) for path in asked} == {0, 1, 2}
