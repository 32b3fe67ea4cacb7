"""Traversal verification: Weng et al. (arXiv 2505.12398). A sampled tree is judged from its leaves to its root.

Rule. The root has mass 1. A drawn child of a node with mass a gets b = min(1, a p(x)/q(x)) and is settled first, with
all that is below it. If nothing there was accepted, the node's own (a, p) becomes what `rejection.after_rejection`
says, q loses x if tokens are drawn without replacement, and the next child is tried with them. A node without further
children is accepted (with the whole path to it) with probability a, and the next token comes from its p.

Why it is exact. It is the lemma of `rejection.py` in full, by induction from the leaves: a leaf meets its claim by its
coin; a node meets its claim if each drawn child meets the one it is handed, and what is left is met by the next child
or, at last, by the node's own coin. The root's claim has mass 1 until the end, so something is always committed. How
many draws a child has may depend on the node's later draws (paths in a trie): each claim is met whatever that number.

On a single path this is block verification, and optimal. In a tree it keeps what top-down rules throw away: they drop a
whole subtree when a node near the root fails its own test, although a path below it might have carried it.
"""

from __future__ import annotations

from speculation.rules.coin import Coin
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import acceptance, after_rejection, without
from speculation.rules.rule import Settled

__all__ = ["settle"]


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    settled = _settle_below(draft, 0, 1.0, (), coin)
    assert settled is not None, "the root's mass is 1 until the end; otherwise a claim was lost on the way"
    return settled


def _settle_below(draft: SampledDraft, row: int, mass: float, path: tuple[int, ...], coin: Coin) -> Settled | None:
    """Meets the claim (mass, target_probs[row]): None where it did not stop here or below."""
    target, proposal = draft.target_probs[row], draft.draft_probs[row]
    for node in draft.draws[row]:
        claim = acceptance(mass, target, proposal, draft.tokens[node])
        if claim > 0.0:
            settled = _settle_below(draft, node + 1, claim, (*path, node), coin)
            if settled is not None:
                return settled
        mass, target = after_rejection(mass, target, proposal)
        if not draft.replacement:
            proposal = without(proposal, draft.tokens[node])
    return Settled(accepted=path, next_token=coin.choose(target)) if coin.flip(mass) else None
