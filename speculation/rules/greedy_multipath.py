"""Greedy multi-path block verification, after Thomas and Pal (arXiv 2602.16961).

Known from the paper's abstract: block verification is extended to several sampled paths; the best such rule is
intractable, a greedy class of them is efficient. What follows is our own rule of that kind; do not quote it as theirs.

Rule. Order the tokens of every node by p(x)/q(x), the most wanted first, and so all paths, as words in a dictionary. Of
the first n of the k independent paths take the one that comes first, and settle it by block verification, with q
replaced by the law of the path that was taken.

Why it is exact. Block verification is exact for one path drawn from any law, if it is told that law's next-token
distributions along the path (`block.settle_path`). The path taken is a function of n independent paths, so its law is
known: let M be the mass under q of the prefixes that begin with y, and V of those that come after all of them. Then
    P(the path taken begins with y) = (V + M)^n - V^n = M T(y),   T(y) = sum_{j<n} (V + M)^j V^(n-1-j),
for none of the n paths may come before y and not all of them after it. The next token's distribution at y is therefore
q(c|y) T(yc)/T(y), with V and M of yc from those of y and the part of q(.|y) ordered after c: the nodes on the path are
all it needs. The order may be any function of p and q at the node. Written with T no difference of nearly equal powers
is ever formed.

How many paths. Taking the first of n tilts the path towards tokens with large p/q, which is right while q lacks them
and wrong beyond: with p = q every n > 1 does harm. So n may be a fraction, 1.25 being 1 or 2 by a coin that falls on 2
once in four; the law of the path taken is then the mixture, and T the same mixture of both T's. n is chosen, in eighths
from 1 to k, as what makes most of sum(min(p, law)) at the root, that is of the first token's acceptance; it depends on
p and q there and on no draw, so that exactness is untouched. For paths of one token the rule is therefore never worse
than block verification.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speculation.rules import block
from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import ratios
from speculation.rules.rule import Settled

__all__ = ["num_paths_used", "settle"]

_STEPS = 8  # fractions of a path; finer ones gain nothing that can be measured


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the prefixes that end in the tokens of one node stand among all of their length, by drafted mass."""

    ranks: list[int]  # of each token at this node: 0 comes first
    own: Probs  # [vocab] M
    after: Probs  # [vocab] V

    def weights(self, num_paths: Probs) -> Probs:  # [n], each 1 or more
        """T [n, vocab]: the chance that the path taken begins so, over the chance that a sampled one does."""
        wholes = np.array([self._weights_of(n) for n in range(1, 2 + int(num_paths.max()))])
        whole = num_paths.astype(int)
        part = (num_paths - whole)[:, None]
        weights: Probs = (1.0 - part) * wholes[whole - 1] + part * wholes[whole]
        return weights

    def _weights_of(self, n: int) -> Probs:
        total: Probs = np.zeros_like(self.own)
        for j in range(n):
            total += (self.after + self.own) ** j * self.after ** (n - 1 - j)
        return total


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    draft.require_replacement(True, "greedy_multipath")
    paths = draft.paths()
    path: list[int] = []
    proposals: list[Probs] = []
    if paths:
        num_paths = num_paths_used(draft.target_probs[0], draft.draft_probs[0], len(paths))
        candidates = paths[: int(num_paths) + coin.flip(num_paths - int(num_paths))]
        row, own, after = 0, 1.0, 0.0
        for depth in range(len(candidates[0])):
            places = _places(draft.target_probs[row], draft.draft_probs[row], own, after)
            proposals.append(_laws(draft.draft_probs[row], places, np.array([num_paths]))[0])
            first = min((path[depth] for path in candidates), key=lambda node: places.ranks[draft.tokens[node]])
            candidates = [path for path in candidates if path[depth] == first]
            path.append(first)
            token = draft.tokens[first]
            row, own, after = first + 1, float(places.own[token]), float(places.after[token])
    return block.settle_path(draft, path, proposals, coin)


def num_paths_used(
    target_probs: Probs,  # [vocab] at the root
    draft_probs: Probs,  # [vocab] at the root
    num_paths: int,
) -> float:
    """How many paths to choose from, so that the first token of the one taken is accepted most often."""
    places = _places(target_probs, draft_probs, 1.0, 0.0)
    options: Probs = 1.0 + np.arange((num_paths - 1) * _STEPS + 1) / _STEPS
    overlaps = np.minimum(target_probs, _laws(draft_probs, places, options)).sum(axis=1)
    return float(options[np.argmax(overlaps)])


def _places(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
    own: float,
    after: float,
) -> _Places:
    """Places of the prefixes below one that has mass `own` and is followed by mass `after`."""
    order = np.argsort(-ratios(target_probs, draft_probs, undrawn=-1.0), kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    # Summed from the last token upwards: what is small there would be lost in one minus what comes before.
    from_last = np.cumsum(draft_probs[order][::-1])[::-1]
    later = np.append(from_last[1:], 0.0)[ranks]
    return _Places(ranks=ranks.tolist(), own=own * draft_probs, after=after + own * later)


def _laws(
    draft_probs: Probs,  # [vocab]
    places: _Places,  # of the tokens below the prefix
    num_paths: Probs,  # [n]
) -> Probs:
    """Distributions [n, vocab] of the next token of the path taken."""
    laws: Probs = draft_probs * places.weights(num_paths)
    totals = laws.sum(axis=1, keepdims=True)
    # Below a prefix so unlikely that its mass is 0 in float64 any law will do: nobody gets there.
    np.divide(laws, totals, out=laws, where=totals > 0.0)
    laws[totals[:, 0] == 0.0] = draft_probs
    return laws
