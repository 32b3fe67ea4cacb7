"""Tiny models to try rules on, and the check that a rule is exact: a comparison of distributions, not of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product

import numpy as np

from speculation.rules.coin import Coin, Probs, outcomes
from speculation.rules.compare import committed_law
from speculation.rules.draft import Model, SampledDraft, normalised
from speculation.rules.rule import Rule

TOLERANCE = 1e-9

Rows = Callable[[np.random.Generator, int, int], tuple[Probs, Probs]]
"""From randomness, vocabulary size and prefix length to the weights [vocab] of target and drafter."""


def models(rows: Rows, vocab_size: int, seed: int = 0) -> tuple[Model, Model]:
    """Target and drafter, each prefix with rows of its own."""

    @cache
    def both(prefix: tuple[int, ...]) -> tuple[Probs, Probs]:
        return rows(np.random.default_rng([seed, vocab_size, *prefix]), vocab_size, len(prefix))

    return (lambda prefix: both(prefix)[0]), (lambda prefix: both(prefix)[1])


def largest_error(rule: Rule, target: Model, drafts: Iterable[tuple[float, SampledDraft]], depth: int) -> float:
    """Largest difference, over all sequences of depth + 1 tokens, between the target's probability and that of what
    the rule commits and the target continues."""
    law = committed_law(rule, drafts)
    vocab_size = len(target(()))
    row_of = cache(lambda prefix: normalised(target(prefix)).tolist())

    def text_law(start: tuple[int, ...], probability: float) -> Iterator[tuple[tuple[int, ...], float]]:
        """How the target goes on after a start that comes with this probability, to the full length."""
        if len(start) == depth + 1:
            yield start, probability
        elif probability > 0.0:
            for token, chance in enumerate(row_of(start)):
                yield from text_law((*start, token), probability * chance)

    difference = dict.fromkeys(product(range(vocab_size), repeat=depth + 1), 0.0)
    for text, probability in text_law((), 1.0):
        difference[text] -= probability
    for committed, probability in law.items():
        assert len(committed) <= depth + 1
        for text, share in text_law(committed, probability):
            difference[text] += share
    return max(abs(value) for value in difference.values())


def all_drafts(draw: Callable[[Coin], SampledDraft]) -> list[tuple[float, SampledDraft]]:
    """Every draft that can be drawn, with its probability."""
    return list(outcomes(draw))


def _dirichlet(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    return rng.dirichlet(np.full(n, 0.7)), rng.dirichlet(np.full(n, 0.7))


def _zeros(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    """Each lacks a token that the other has."""
    target, draft = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n))
    first, second = rng.permutation(n)[:2]
    target[first] = 0.0
    draft[second] = 0.0
    return target, draft


def _disjoint(rng: np.random.Generator, n: int, length: int) -> tuple[Probs, Probs]:
    """No token in common at even depths."""
    target, draft = rng.random(n) + 0.1, rng.random(n) + 0.1
    if length % 2 == 0:
        target[0], draft[1:] = 0.0, 0.0
    return target, draft


def _ties(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    """Few different values, so that ratios are often equal, to one another and to 1."""
    return rng.integers(1, 3, n).astype(float), rng.integers(1, 3, n).astype(float)


def _point_draft(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    """All draws of a node are the same token."""
    return rng.dirichlet(np.ones(n)), np.eye(n)[rng.integers(n)]


def _point_target(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    return np.eye(n)[rng.integers(n)], rng.dirichlet(np.ones(n))


def _point_both(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    return np.eye(n)[rng.integers(n)], np.eye(n)[rng.integers(n)]


def _identical(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    target = rng.dirichlet(np.ones(n))
    return target, target


def _nearly_identical(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    target = rng.dirichlet(np.ones(n))
    return target, target * (1.0 + 1e-15 * rng.standard_normal(n))


def _surer_drafter(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    """A drafter that knows better than the target what the target likes."""
    target = rng.dirichlet(np.ones(n))
    return target, target**4


def _tiny_weights(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    """Unnormalised, down to the smallest floats, and of very different sizes."""
    return rng.integers(1, 9, n).astype(np.float64) * 5e-324, 10.0 ** rng.choice([-320.0, -300.0, -17.0, -1.0], n)


def _vanishing(_: np.random.Generator, n: int, __: int) -> tuple[Probs, Probs]:
    """Two steps that the other side likes have probabilities whose product is 0 in float64."""
    target, draft = np.full(n, 1e-200), np.full(n, 1e-200)
    target[0] = draft[-1] = 1.0
    return target, draft


def _vanishing_alike(_: np.random.Generator, n: int, __: int) -> tuple[Probs, Probs]:
    """The same for tokens that neither likes, and the target even less."""
    target, draft = np.full(n, 1e-300), np.full(n, 1e-200)
    target[0] = draft[0] = 1.0
    return target, draft


def _huge_weights(rng: np.random.Generator, n: int, _: int) -> tuple[Probs, Probs]:
    return rng.random(n) * 1e308, 10.0 ** rng.choice([-300.0, 0.0, 300.0], n)


PAIRS: dict[str, Rows] = {
    rows.__name__.lstrip("_"): rows
    for rows in (
        _dirichlet,
        _zeros,
        _disjoint,
        _ties,
        _point_draft,
        _point_target,
        _point_both,
        _identical,
        _nearly_identical,
        _surer_drafter,
        _tiny_weights,
        _vanishing,
        _vanishing_alike,
        _huge_weights,
    )
}
