"""The lemma that the rejection rules share: what is left to do after a drawn token was turned down.

A *claim* (mass a, target p) at a node asks of a procedure that it stops there or below with probability exactly a, and
that, given that it stops, the tokens it commits after the node, continued by the target, are distributed as a token
from p and then the target's own text. Exactness of a whole rule is the claim (1, target_probs) at the root.

Lemma. Let a token x be drawn from q at a node with claim (a, p), and meet the claim (b(x), target) below it, where
    b(x) = min(1, a p(x) / q(x)).
If that did not stop, meet the claim (a', p') at the node, where
    rest = max(a p - q, 0),   a' = sum(rest) / (sum(rest) + 1 - a),   p' = rest / sum(rest).
Then the claim (a, p) was met.

Proof. Through the first drawn token, x is committed with probability q(x) b(x) = min(q(x), a p(x)), followed by the
target's own text by what b(x) asks. Wanted is a p(x), so rest(x) is missing, sum(rest) in all. The procedure goes on
with probability 1 - sum(min(q, a p)) = 1 - (a - sum(rest)) = sum(rest) + 1 - a, so that it must stop with a' of that,
with tokens from p'. That a' and p' do not depend on which x was turned down is what makes the second claim possible: it
is to be met given any x, and so may be met by drawing again, from whatever distribution the next token has given x. The
same lemma then applies with (a', p') for (a, p) and that distribution for q. QED

With a = 1 it is the usual rejection sampling: b = min(1, p/q), a' = 1, p' = norm(max(p - q, 0)). A node with no draws
left meets its claim by stopping with probability a, with a token from p. A token turned down has rest 0, so a second
draw of the same token claims nothing.

In Leviathan et al. (arXiv 2211.17192) p is the target's distribution and q the drafter's; so here, in formulas only.
"""

from __future__ import annotations

import numpy as np

from speculation.rules.coin import Probs

__all__ = ["acceptance", "after_rejection", "ratios", "without"]


def acceptance(
    mass: float,
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab], above 0 at the token
    token: int,
) -> float:
    """b(token): what a drawn token may claim."""
    wanted, drawn = mass * float(target_probs[token]), float(draft_probs[token])
    return 1.0 if wanted >= drawn else wanted / drawn


def after_rejection(
    mass: float,
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
) -> tuple[float, Probs]:
    """(a', p' [vocab]): the claim that is left at a node after a token drawn from draft_probs was turned down."""
    rest: Probs = np.maximum(mass * target_probs - draft_probs, 0.0)
    missing = float(rest.sum())
    if missing == 0.0:
        # With mass 1 this happens only where q equals p and nothing is ever turned down, but for rounding.
        return (1.0 if mass >= 1.0 else 0.0), target_probs
    return missing / (missing + (1.0 - mass)), rest / missing


def without(
    draft_probs: Probs,  # [vocab]
    token: int,
) -> Probs:
    """What the next draw without replacement is drawn from [vocab]; all 0 if the token was the only one."""
    left = draft_probs.copy()
    left[token] = 0.0
    total = float(left.sum())
    return left / total if total > 0.0 else left


def ratios(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
    *,
    undrawn: float,
) -> Probs:
    """p/q [vocab], infinite where float64 ends, and `undrawn` where q is 0."""
    drawable = draft_probs > 0.0
    with np.errstate(over="ignore"):
        return np.where(drawable, target_probs / np.where(drawable, draft_probs, 1.0), undrawn)
