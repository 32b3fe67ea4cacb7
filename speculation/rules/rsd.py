"""Recursive rejection sampling without replacement: RSD, Jeon et al. (arXiv 2402.14160), with constant branching.

Draft. Below a node, k different tokens: the k largest of log q + Gumbel noise, largest first. That is a draw from q,
then one from q without the first token, and so on (`gumbel_top_k`, and `draw_tree` in words of the coin).

Rule. As multi-round sampling in `specinfer.py`, but each draw is tested against the distribution it came from: after x
was rejected, p becomes norm(max(p - q, 0)) *and* q becomes q without x, renormalised.

Why it is exact. The lemma of `rejection.py` with mass 1: the claim that is left does not depend on which x was
rejected, so it may be met given x, by a draw from q without x. Where the drafter has no token left, the claim is met by
stopping.

No draw repeats a rejected token. If both drafter and target have two tokens only, a second draw is always accepted.

The paper's other form, RSD-S, draws whole sequences without replacement by stochastic beam search; it is not here.
"""

from __future__ import annotations

import numpy as np

from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import acceptance, after_rejection, without
from speculation.rules.rule import Settled

__all__ = ["gumbel_top_k", "settle"]


def gumbel_top_k(
    draft_probs: Probs,  # [vocab]
    noise: Probs,  # [vocab] Gumbel noise
    num_draws: int,
) -> list[int]:
    """Tokens drawn without replacement, in order; fewer than asked for where fewer have any probability.

    Exponential clocks say why: token x rings at a time of rate q(x), and -log of that time is log q + Gumbel noise. The
    first to ring is x with probability q(x); the others, which have not rung, have forgotten how long they waited.
    """
    with np.errstate(divide="ignore"):
        values = np.log(draft_probs) + noise
    order = np.argsort(-values, kind="stable")[:num_draws]
    return [int(token) for token in order if draft_probs[token] > 0.0]


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    draft.require_replacement(False, "rsd")
    accepted: list[int] = []
    row = 0
    while True:
        target, proposal = draft.target_probs[row], draft.draft_probs[row]
        for node in draft.draws[row]:
            if coin.flip(acceptance(1.0, target, proposal, draft.tokens[node])):
                break
            _, target = after_rejection(1.0, target, proposal)
            proposal = without(proposal, draft.tokens[node])
        else:
            return Settled(accepted=tuple(accepted), next_token=coin.choose(target))
        accepted.append(node)
        row = node + 1
