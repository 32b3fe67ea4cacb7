"""Block verification: Sun et al. (arXiv 2403.10444). A sampled path is judged as a whole, not token by token.

Rule. Going down the path, carry the mass m_0 = 1, m_i = min(1, m_{i-1} p(x_i)/q(x_i)). Then look for the longest prefix
to accept, from the end of the path upwards: accept all L tokens with probability m_L and take a token from the target;
else accept i < L tokens with probability
    h_i = s_i / (s_i + 1 - m_i),   s_i = sum_x max(m_i p(x) - q(x), 0),
and take the next token from norm(max(m_i p - q, 0)). h_0 is 1, so something is always committed.

Why it is exact. By the lemma of `rejection.py`, used the other way round: node i has the claim m_i; its only draw gets
the claim m_{i+1} and is asked first; if nothing below stops, (h_i, norm(max(m_i p - q, 0))) is the claim that is left,
met by stopping with that probability.

Why it accepts at least as much as standard rejection: a token with p > q has more to give than its own acceptance. The
standard rule cuts min(1, p/q) off at every token and multiplies; here the surplus of a later token makes up for the
deficit of an earlier one, for prod(p/q) is only cut off at 1, not each factor. Sun et al. prove that no rule that sees
one path accepts more tokens in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence

from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import acceptance, after_rejection
from speculation.rules.rule import Settled

__all__ = ["settle", "settle_path"]


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    path = draft.first_path()
    return settle_path(draft, path, [draft.draft_probs[row] for row in (0, *(node + 1 for node in path[:-1]))], coin)


def settle_path(
    draft: SampledDraft,
    path: Sequence[int],
    proposals: Sequence[Probs],  # for each node of the path: [vocab], the law it came from given the nodes above it
    coin: Coin,
) -> Settled:
    """Block verification of one path that was drawn from `proposals`, however it came to be drawn from them."""
    rows = [0, *(node + 1 for node in path)]
    masses = [1.0]
    for row, node, proposal in zip(rows, path, proposals, strict=False):
        masses.append(acceptance(masses[-1], draft.target_probs[row], proposal, draft.tokens[node]))
    if coin.flip(masses[-1]):
        return Settled(accepted=tuple(path), next_token=coin.choose(draft.target_probs[rows[-1]]))
    num_accepted = len(path) - 1
    while True:
        stop, residual = after_rejection(
            masses[num_accepted], draft.target_probs[rows[num_accepted]], proposals[num_accepted]
        )
        if num_accepted == 0 or coin.flip(stop):
            return Settled(accepted=tuple(path[:num_accepted]), next_token=coin.choose(residual))
        num_accepted -= 1
