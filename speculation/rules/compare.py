"""All rules side by side on the same drafts: tokens committed per round, exactly or by sampling.

Every rule gets the same budget of depth * num_paths drawn tokens. Rules of one path see the first of the paths, at a
price of depth tokens. Rules of distinct draws get a comb: num_paths different tokens below the root, one path below
each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from speculation.rules.coin import Coin, Probs, RandomCoin, outcomes
from speculation.rules.draft import Model, Prepare, SampledDraft, draw_paths, draw_tree, normalised
from speculation.rules.optimal_transport import prefix_bound
from speculation.rules.registry import RULES, DraftKind, NamedRule
from speculation.rules.rule import Rule
from speculation.rules.shared_noise import coupling, match_probability

__all__ = [
    "Shape",
    "committed_law",
    "dirichlet_models",
    "draw",
    "exact_tokens",
    "mean_shared_noise",
    "mean_tokens",
    "shared_noise_comb",
    "temperature_models",
    "upper_bound",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Size of a round's draft."""

    num_paths: int
    depth: int


def draw(
    kind: DraftKind, target: Model, drafter: Model, shape: Shape, coin: Coin, prepare: Prepare | None = None
) -> SampledDraft:
    """A draft of the kind a rule needs."""
    if kind is DraftKind.DISTINCT:
        branching = [shape.num_paths, *[1] * (shape.depth - 1)]
        return draw_tree(target, drafter, branching=branching, replacement=False, coin=coin, prepare=prepare)
    num_paths = 1 if kind is DraftKind.ONE_PATH else shape.num_paths
    return draw_paths(target, drafter, num_paths=num_paths, depth=shape.depth, coin=coin, prepare=prepare)


def committed_law(rule: Rule, drafts: Iterable[tuple[float, SampledDraft]]) -> dict[tuple[int, ...], float]:
    """Probability of each sequence of tokens that a round may commit, over all ways that draft and coin can fall."""
    law: dict[tuple[int, ...], float] = {}
    for draft_probability, draft in drafts:
        for probability, settled in outcomes(partial(rule, draft)):
            tokens = settled.committed(draft)
            law[tokens] = law.get(tokens, 0.0) + draft_probability * probability
    return law


def exact_tokens(rule: NamedRule, target: Model, drafter: Model, shape: Shape) -> float:
    """Expected tokens per round, by enumeration: for tiny vocabularies and drafts."""
    drafts = outcomes(lambda coin: draw(rule.kind, target, drafter, shape, coin))
    return sum(len(tokens) * probability for tokens, probability in committed_law(rule.settle, drafts).items())


def mean_tokens(
    target: Model,
    drafter: Model,
    shape: Shape,
    *,
    num_rounds: int,
    seed: int,
    rules: Iterable[NamedRule] = tuple(RULES.values()),
    prepare: Prepare | None = None,
) -> dict[str, float]:
    """Mean tokens per round of each rule over num_rounds sampled drafts, the same ones for rules of one kind."""
    drawn_for: dict[DraftKind, list[SampledDraft]] = {}
    means: dict[str, float] = {}
    for rule in rules:
        if rule.kind not in drawn_for:
            coin = RandomCoin(np.random.default_rng(seed).random)
            drawn_for[rule.kind] = [draw(rule.kind, target, drafter, shape, coin, prepare) for _ in range(num_rounds)]
        coin = RandomCoin(np.random.default_rng(seed + 1).random)
        num_tokens = sum(1 + len(rule.settle(draft, coin).accepted) for draft in drawn_for[rule.kind])
        means[rule.name] = num_tokens / num_rounds
    return means


def shared_noise_comb(target: Model, drafter: Model, shape: Shape) -> float:
    """Expected tokens per round of shared noise with runners-up, exactly: the drafter's own choices as a path, and at
    each node of it the num_paths - 1 next best as leaves. Depth * num_paths nodes, like the other rules' drafts.

    Along the path the chance that both choose x is a diagonal entry of the coupling; a round that goes on beside the
    path, by a runner-up, ends one token later. The noise of different positions is independent, so chances multiply.
    """

    def below(prefix: tuple[int, ...], depth: int) -> float:
        if depth == 0:
            return 0.0
        p, q = normalised(target(prefix)), normalised(drafter(prefix))
        accepted = match_probability(p, q, shape.num_paths)
        both: list[float] = np.diagonal(coupling(p, q)).tolist()
        return accepted + sum(
            chance * below((*prefix, x), depth - 1) for x, chance in enumerate(both) if chance > 0.0 and depth > 1
        )

    return 1.0 + below((), shape.depth)


def mean_shared_noise(
    target: Model, drafter: Model, shape: Shape, *, num_rounds: int, seed: int, prepare: Prepare | None = None
) -> float:
    """Mean tokens per round of what `shared_noise_comb` computes exactly, by drawing the noise: for vocabularies too
    large to look at pairs of tokens."""
    rng = np.random.default_rng(seed)
    num_tokens = 0
    for _ in range(num_rounds):
        path: tuple[int, ...] = ()
        noises: list[Probs] = []
        combs: list[list[int]] = []
        for _ in range(shape.depth):
            weights = normalised(drafter(path))
            noises.append(rng.gumbel(size=weights.size))
            best = _noisy(weights, noises[-1])
            comb = np.argsort(-best, kind="stable")[: shape.num_paths]
            combs.append([int(token) for token in comb if best[token] > -np.inf])
            path = (*path, combs[-1][0])
        if prepare is not None:
            prepare([path[:depth] for depth in range(shape.depth)])
        num_tokens += 1
        for depth, comb_tokens in enumerate(combs):
            choice = int(np.argmax(_noisy(normalised(target(path[:depth])), noises[depth])))
            num_tokens += choice in comb_tokens
            if choice != path[depth]:
                break
    return num_tokens / num_rounds


def _noisy(
    weights: Probs,  # [vocab]
    noise: Probs,  # [vocab]
) -> Probs:
    with np.errstate(divide="ignore"):
        values: Probs = np.log(weights) + noise
    return values


def upper_bound(target: Model, drafter: Model, shape: Shape) -> float:
    """No exact rule commits more per round from independent paths of this shape."""
    return prefix_bound(target, drafter, num_paths=shape.num_paths, depth=shape.depth)


def dirichlet_models(vocab_size: int, *, concentration: float, likeness: float, seed: int) -> tuple[Model, Model]:
    """A target and a drafter whose distributions are drawn afresh for every prefix, from Dirichlet(concentration).

    The drafter's is a mixture: likeness of the target's, the rest its own.
    """

    def rows(prefix: tuple[int, ...]) -> tuple[Probs, Probs]:
        rng = np.random.default_rng([seed, *prefix])
        target, other = rng.dirichlet(np.full(vocab_size, concentration), size=2)
        return target, likeness * target + (1.0 - likeness) * other

    return _models(rows)


def temperature_models(vocab_size: int, *, temperature: float, error: float, seed: int) -> tuple[Model, Model]:
    """Softmax of normal logits at a temperature; the drafter's logits differ by normal errors of the given size."""

    def rows(prefix: tuple[int, ...]) -> tuple[Probs, Probs]:
        rng = np.random.default_rng([seed, *prefix])
        logits = 2.0 * rng.standard_normal(vocab_size)
        drafted = logits + error * rng.standard_normal(vocab_size)
        return _softmax(logits / temperature), _softmax(drafted / temperature)

    return _models(rows)


def _models(rows: Callable[[tuple[int, ...]], tuple[Probs, Probs]]) -> tuple[Model, Model]:
    cached = lru_cache(maxsize=65_536)(rows)
    return (lambda prefix: cached(prefix)[0]), (lambda prefix: cached(prefix)[1])


def _softmax(
    logits: Probs,  # [vocab]
) -> Probs:
    return normalised(np.exp(logits - logits.max()))
