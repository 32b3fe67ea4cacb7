"""The house's own rule: the target decides by its own logits and shared noise, and drafts are proposals.

Rule. The target's choice at a node is argmax(log target_probs + noise of that position); the walk of
`contracts.verdict` follows it down the tree for as long as there is a child that equals it. Nothing about a draft is
tested against anything, so drafts need not be samples: they may be fused, pruned, guessed or wrong.

Why it is exact. argmax(log p + Gumbel noise) is distributed as p, the noise of different positions is independent, and
which rows the walk reads depends only on choices of earlier positions. So the text is the target's own sample, token
for token, whatever was drafted.

Why drafts agree with it. The drafter takes argmax(log q + noise) with the *same* noise. Think of each token's noise as
an exponential clock E_x: the target takes the least E_x/p_x, the drafter the least E_x/q_x. Both take x if
E_y >= E_x max(p_y/p_x, q_y/q_x) for all y, hence
    P(both take x) = 1 / sum_y max(p_y/p_x, q_y/q_x),
summed over x the `match_probability` (Daliri, Musco and Suresh, arXiv 2408.07978). It is at most 1 - TV(p, q), as for
every coupling, and at least (1 - TV)/(1 + TV), since max(p_y/p_x, q_y/q_x) <= max(p_y, q_y) / min(p_x, q_x), whose sum
over y is (1 + TV) / min(p_x, q_x), and sum_x min(p_x, q_x) = 1 - TV. Rules that test samples reach 1 - TV for a single
token, but need q, which shared noise does not.
"""

from __future__ import annotations

import itertools

import numpy as np

from contracts.verdict import walk
from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import SampledDraft
from speculation.rules.rule import Settled

__all__ = ["bound", "coupling", "floor", "match_probability", "settle", "settle_by_noise", "total_variation"]


def settle_by_noise(
    draft: SampledDraft,
    noise: Probs,  # [positions, vocab] Gumbel noise, one row more than the tree is deep; zeros at temperature 0
) -> Settled:
    """The rule as it is served."""
    depths = [0]
    for parent in draft.parents:
        depths.append(depths[parent + 1] + 1)
    with np.errstate(divide="ignore"):
        values = np.log(draft.target_probs) + noise[depths]  # [1 + num_nodes, vocab]
    choices = np.argmax(values, axis=1).tolist()
    accepted = walk(choices, draft.tokens, draft.parents)
    return Settled(accepted=tuple(accepted), next_token=choices[accepted[-1] + 1 if accepted else 0])


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    """The rule as it looks to someone who sees the drawn tokens but not the noise, along the first path.

    Given that the drafter drew y from the shared noise, the target takes x with probability coupling[x, y] / q_y. The
    law of what is committed is that of `settle_by_noise`; in this form it can be enumerated beside the other rules.
    """
    accepted: list[int] = []
    row = 0
    for node in draft.first_path():
        joint = coupling(draft.target_probs[row], draft.draft_probs[row])
        choice = coin.choose(joint[:, draft.tokens[node]])
        if choice != draft.tokens[node]:
            return Settled(accepted=tuple(accepted), next_token=choice)
        accepted.append(node)
        row = node + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))


def coupling(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
) -> Probs:
    """P(target takes x, drafter takes y) under shared noise, exactly: [vocab, vocab].

    Let the target's winner ring at time a (a = E_x/p_x) and the drafter's at time b (b = E_y/q_y). Every other z must
    ring later in both races, E_z >= max(p_z a, q_z b), so that the joint density of (x, a, y, b) is
        p_x q_y exp(-sum_z max(p_z a, q_z b))   where q_x b <= p_x a and p_y a <= q_y b.
    With a = t (1 - r) and b = t r, integrating t out leaves the integral of 1/g(r)^2, g(r) = sum_z max(p_z (1 - r), q_z
    r), over r from turn_y to turn_x, turn_z = p_z / (p_z + q_z). g is linear between turns, and there the integral of
    1/g^2 from u to v is (v - u) / (g(u) g(v)). On the diagonal, where x = y ring as one, r is turn_x.
    """
    p, q = target_probs, draft_probs
    known = p + q > 0.0
    turns = np.where(known, p / np.where(known, p + q, 1.0), 0.0)
    order = np.argsort(turns, kind="stable")
    ordered = turns[order]
    heights = np.maximum(np.outer(1.0 - ordered, p), np.outer(ordered, q)).sum(axis=1)
    pieces = np.diff(ordered) / (heights[:-1] * heights[1:])
    integral, height = np.empty_like(p), np.empty_like(p)
    integral[order] = np.concatenate([[0.0], np.cumsum(pieces)])
    height[order] = heights
    joint = np.outer(p, q) * np.maximum(integral[:, None] - integral[None, :], 0.0)
    # p_x q_x / ((p_x + q_x) g(turn_x)) is 1 / sum_y max(p_y/p_x, q_y/q_x), and also right where one of them is 0.
    np.fill_diagonal(joint, turns * q / height)
    return joint


def match_probability(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
    num_candidates: int = 1,
) -> float:
    """Chance that the target's choice is among the drafter's num_candidates best under shared noise, exactly.

    Let the target's winner x ring at time a, and B be the tokens that the drafter prefers to x. y in B rings after x
    for the target but before it for the drafter: p_y a <= E_y < q_y a p_x/q_x, with chance exp(-a p_y) - exp(-a q_y
    p_x/q_x); the others ring later for both. Over a, the product is a sum of exponentials, each integrated at once;
    over B of up to num_candidates - 1 tokens the results add up. It takes vocab^num_candidates operations.
    """
    total = 0.0
    for x in np.flatnonzero((target_probs > 0.0) & (draft_probs > 0.0)):
        with np.errstate(over="ignore"):  # infinite rates have probability 0, as they should
            in_draft = draft_probs * (target_probs[x] / draft_probs[x])
        later = np.maximum(target_probs, in_draft)
        overtaking = np.flatnonzero(in_draft > target_probs).tolist()
        for size in range(min(num_candidates, len(overtaking) + 1)):
            for before in itertools.combinations(overtaking, size):
                others = float(np.delete(later, before).sum())
                for beats in itertools.product((False, True), repeat=size):
                    rates = [in_draft[y] if late else target_probs[y] for y, late in zip(before, beats, strict=True)]
                    total += float(target_probs[x]) * (-1.0) ** sum(beats) / (others + float(sum(rates)))
    return total


def total_variation(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
) -> float:
    return float(np.abs(target_probs - draft_probs).sum()) / 2


def bound(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
) -> float:
    """No coupling of one token with one draft agrees more often."""
    return 1.0 - total_variation(target_probs, draft_probs)


def floor(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
) -> float:
    """Shared noise agrees at least so often."""
    distance = total_variation(target_probs, draft_probs)
    return (1.0 - distance) / (1.0 + distance)
