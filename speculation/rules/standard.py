"""Standard rejection sampling: Leviathan et al. (arXiv 2211.17192) and Chen et al. (arXiv 2302.01318).

Rule. Along one sampled path, accept token x with probability min(1, p(x)/q(x)). At the first rejection, commit a token
from norm(max(p - q, 0)) instead and stop; if all are accepted, commit one more token from the target.

Why it is exact. It is the lemma of `rejection.py` with mass 1 at every node: an accepted token hands the whole claim to
its child, which is met there, and after a rejection the claim (1, norm(max(p - q, 0))) is met by stopping with a token
from it. The residual must be that: sampling p itself after a rejection commits x with probability min(p, q) + TV p,
too rarely wherever p is much greater than q. Each token is accepted with probability sum(min(p, q)) = 1 - TV(p, q), and
no coupling of two single tokens can agree more often.

A draft with several paths is settled by its first; that too is exact, and wasteful.
"""

from __future__ import annotations

from speculation.rules.coin import Coin
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import acceptance, after_rejection
from speculation.rules.rule import Settled

__all__ = ["settle"]


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    accepted: list[int] = []
    row = 0
    for node in draft.first_path():
        target, proposal = draft.target_probs[row], draft.draft_probs[row]
        if not coin.flip(acceptance(1.0, target, proposal, draft.tokens[node])):
            _, residual = after_rejection(1.0, target, proposal)
            return Settled(accepted=tuple(accepted), next_token=coin.choose(residual))
        accepted.append(node)
        row = node + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))
