"""K-sequential selection: SpecTr, Sun et al. (arXiv 2310.15141). Several independent draws, all tested alike.

Rule. At a node with k draws and a divisor gamma in [1, k]: accept the first draw x that passes min(1, p(x) / (gamma
q(x))), and go on below it. If none of the k passes, commit a token from
    norm(p - min(q, p/gamma) * accept / pass),   pass = sum(min(q, p/gamma)),   accept = 1 - (1 - pass)^k.

Why it is exact. One draw is x and passes with probability min(q(x), p(x)/gamma), whatever the round, so the accepted
token is x with probability min(q(x), p(x)/gamma) * accept / pass: the subtracted term. The rest of p, 1 - accept in
all, is what the residual commits. That needs a residual that is nowhere negative, for which
    accept / pass <= gamma
is enough (then the subtracted term is at most p), and where q > p/gamma anywhere also needed.

Which gamma. Both pass and accept fall as gamma grows, so the best is the smallest gamma with accept <= gamma * pass. It
lies in [1, k], for at k it always holds (a union of k events), and at 1 and p = q it holds with equality. Sun et al.
show that this accepts at least 1 - (1 - 1/k)^k > 1 - 1/e of what optimal transport would. It is found by bisection,
which ends on the side where the condition holds.

k is the number of draws at this node: in a trie of paths it is the number of paths that pass it, which does not depend
on their tokens below it. With one draw gamma is 1 and the rule is the standard one.
"""

from __future__ import annotations

import math

import numpy as np

from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import ratios
from speculation.rules.rule import Settled

__all__ = ["best_gamma", "settle"]

_NUM_HALVINGS = 50  # k / 2^50 is as near as float64 can tell


def best_gamma(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
    num_draws: int,
) -> float:
    """The smallest divisor for which the rule is exact, from above."""
    # pass(gamma) is a sum of p/gamma over tokens with p/q below gamma and of q over the others. Between two values of
    # p/q it is below/gamma + above with constants: find the piece first, then gamma in it.
    ratio = ratios(target_probs, draft_probs, undrawn=np.inf)  # [vocab]; what is never drawn adds q, which is 0
    order = np.argsort(ratio)
    ratio = ratio[order]
    below = np.concatenate([[0.0], np.cumsum(target_probs[order])])  # [vocab + 1]
    above = np.concatenate([np.cumsum(draft_probs[order][::-1])[::-1], [0.0]])  # [vocab + 1]
    piece, last = (int(i) for i in np.searchsorted(ratio, (1.0, float(num_draws))))
    low, high = 1.0, float(num_draws)
    while piece < last:
        middle = (piece + last) // 2
        edge = float(ratio[middle])
        if _is_exact(edge, float(below[middle]), float(above[middle]), num_draws):
            high, last = edge, middle
        else:
            low, piece = edge, middle + 1
    constants = float(below[piece]), float(above[piece])
    if _is_exact(low, *constants, num_draws):
        return low
    for _ in range(_NUM_HALVINGS):
        gamma = (low + high) / 2
        if _is_exact(gamma, *constants, num_draws):
            high = gamma
        else:
            low = gamma
    return high


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    draft.require_replacement(True, "spectr")
    accepted: list[int] = []
    row = 0
    while draft.draws[row]:
        target, proposal, drawn = draft.target_probs[row], draft.draft_probs[row], draft.draws[row]
        gamma = best_gamma(target, proposal, len(drawn))
        passing: Probs = np.minimum(proposal, target / gamma)  # [vocab]
        for node in drawn:
            token = draft.tokens[node]
            if coin.flip(float(passing[token] / proposal[token])):
                break
        else:
            return Settled(accepted=tuple(accepted), next_token=coin.choose(_residual(target, passing, len(drawn))))
        accepted.append(node)
        row = node + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))


def _residual(
    target_probs: Probs,  # [vocab]
    passing: Probs,  # [vocab] chance that one draw is this token and passes
    num_draws: int,
) -> Probs:
    """Weights [vocab] of the token to commit when no draw has passed."""
    one = float(passing.sum())
    residual: Probs = np.maximum(target_probs - passing * (_accept(one, num_draws) / one if one > 0.0 else 0.0), 0.0)
    # Nothing is left only where a draw always passes, but for rounding: then this is never asked in earnest.
    return residual if residual.any() else target_probs


def _is_exact(gamma: float, below: float, above: float, num_draws: int) -> bool:
    one = min(1.0, below / gamma + above)
    return _accept(one, num_draws) <= gamma * one


def _accept(one: float, num_draws: int) -> float:
    """1 - (1 - one)^k without cancellation where one is tiny."""
    return 1.0 if one >= 1.0 else -math.expm1(num_draws * math.log1p(-one))
