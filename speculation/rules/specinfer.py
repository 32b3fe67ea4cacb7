"""Multi-round speculative sampling: SpecInfer, Miao et al. (arXiv 2305.09781). Several independent draws at a node.

Rule. From the root: try the draws of the node one after another. Accept x with probability min(1, p(x)/q(x)) and go on
below it; after a rejection replace p by norm(max(p - q, 0)) and try the next draw. If none is accepted, commit a token
from what p has become.

Why it is exact. Each round is the lemma of `rejection.py` with mass 1: after a rejection the claim (1, norm(max(p - q,
0))) is left, and the next draw is again from q, independent of the one rejected. Paths drawn as a trie keep that: which
paths pass a node depends on tokens above it, not on their tokens below it.

A rejected token has nothing left in p, so drawing it again is in vain. That is the weakness of drawing with replacement
that `rsd.py` removes: at low temperature most draws repeat the first.
"""

from __future__ import annotations

from speculation.rules.coin import Coin
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import acceptance, after_rejection
from speculation.rules.rule import Settled

__all__ = ["settle"]


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    draft.require_replacement(True, "specinfer")
    accepted: list[int] = []
    row = 0
    while True:
        target, proposal = draft.target_probs[row], draft.draft_probs[row]
        for node in draft.draws[row]:
            if coin.flip(acceptance(1.0, target, proposal, draft.tokens[node])):
                break
            _, target = after_rejection(1.0, target, proposal)
        else:
            return Settled(accepted=tuple(accepted), next_token=coin.choose(target))
        accepted.append(node)
        row = node + 1
