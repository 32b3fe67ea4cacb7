"""Rules that look plausible and are wrong: each must fail the check that the real ones pass."""

from __future__ import annotations

import numpy as np

from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import SampledDraft
from speculation.rules.rejection import acceptance, after_rejection
from speculation.rules.rule import Settled


def argmax_match(draft: SampledDraft, coin: Coin) -> Settled:
    """Accepts a token that is the target's most likely one, and otherwise samples from the target: papers.md trap 5."""
    accepted: list[int] = []
    row = 0
    for node in draft.first_path():
        if draft.tokens[node] != int(np.argmax(draft.target_probs[row])):
            break
        accepted.append(node)
        row = node + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))


def target_as_residual(draft: SampledDraft, coin: Coin) -> Settled:
    """Standard rejection sampling, but a rejection commits a token from p instead of norm(max(p - q, 0))."""
    accepted: list[int] = []
    row = 0
    for node in draft.first_path():
        if not coin.flip(acceptance(1.0, draft.target_probs[row], draft.draft_probs[row], draft.tokens[node])):
            break
        accepted.append(node)
        row = node + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))


def kept(
    target_probs: Probs,  # [vocab]
) -> Probs:
    """What a checker would keep, as [vocab] of 0 and 1: all but the token that the target likes least."""
    mask = np.ones(len(target_probs))
    mask[int(np.argmin(target_probs))] = 0.0
    return mask


def prune_then_sample(draft: SampledDraft, coin: Coin) -> Settled:
    """Drops a token that the checker would not keep and samples from p in its place: papers.md trap 2."""
    return _pruned(draft, coin, exact=False)


def prune_exactly(draft: SampledDraft, coin: Coin) -> Settled:
    """The repair that papers.md states: after a drop or a rejection, sample from p - 1_kept min(p, q)."""
    return _pruned(draft, coin, exact=True)


def _pruned(draft: SampledDraft, coin: Coin, *, exact: bool) -> Settled:
    accepted: list[int] = []
    row = 0
    for node in draft.first_path():
        target, proposal, token = draft.target_probs[row], draft.draft_probs[row], draft.tokens[node]
        keep = kept(target)
        was_kept = keep[token] > 0.0
        if not was_kept or not coin.flip(acceptance(1.0, target, proposal, token)):
            if exact:
                left = target - keep * np.minimum(target, proposal)
            else:
                left = after_rejection(1.0, target, proposal)[1] if was_kept else target
            return Settled(accepted=tuple(accepted), next_token=coin.choose(left))
        accepted.append(node)
        row = node + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))
