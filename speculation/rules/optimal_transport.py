"""The most that k drawn tokens can achieve, as an optimal transport with membership cost.

The frame is SpecTr's (Sun et al., arXiv 2310.15141), the dual form that of Hu et al. (arXiv 2502.18779).

Problem. Draws make a random set S of tokens. Couple S with a token Y from p such that Y lies in S as often as possible.
Every exact rule that judges one position is such a coupling (Y is what it commits, accepted if in S), so none accepts
more.

As a flow. Probability flows from each set S, supply P(S), to its tokens, and from token x to the sink, at most p(x).
The value of the largest flow is the best acceptance. By max-flow min-cut it equals
    min over sets A of tokens of  p(A) + 1 - P(S inside A):
cut the sink edges of the tokens in A, and the supply of every S that is not inside A. `acceptance_bound` computes that
minimum. For independent draws P(S inside A) = q(A)^k, and only sets of tokens with the smallest p/q need be looked at:
with A relaxed to fractions in [0, 1], p(A) - q(A)^k has, at each value of q(A), its least p(A) at a threshold of p/q
with at most one fractional token, and along such thresholds it is concave between two whole sets, so least at one.

As a rule (`settle`, for tiny vocabularies). From the flow, given the drawn set S: commit x in S with probability
flow(S, x) / P(S), accepted; else commit from p minus all that flowed. Exact by construction: x comes with what flowed
into it plus what was missing. At one position nothing accepts more often. Over several positions block and traversal
verification can, since they join decisions of different positions; `prefix_bound` holds for them too.
"""

from __future__ import annotations

import itertools
from collections import deque
from functools import lru_cache

import numpy as np

from contracts.errors import InvalidArgument
from speculation.rules.coin import Coin, Probs
from speculation.rules.draft import Model, SampledDraft, normalised
from speculation.rules.rejection import ratios
from speculation.rules.rule import Settled

__all__ = ["MAX_VOCAB_OF_SETS", "Transport", "acceptance_bound", "prefix_bound", "set_law", "settle", "transport"]

TokenSet = frozenset[int]
Transport = dict[TokenSet, dict[int, float]]
"""Probability that flows from a set of drawn tokens to each of them."""

MAX_VOCAB_OF_SETS = 12  # sets are listed one by one: 4,096 of them


def set_law(
    draft_probs: Probs,  # [vocab]
    num_draws: int,
    *,
    replacement: bool,
) -> dict[TokenSet, float]:
    """Probability of each set of drawn tokens. The next draw's law depends on the earlier ones only as a set."""
    if len(draft_probs) > MAX_VOCAB_OF_SETS:
        raise InvalidArgument(f"sets of {len(draft_probs)} tokens are too many; {MAX_VOCAB_OF_SETS} are the limit")
    law: dict[TokenSet, float] = {frozenset(): 1.0}
    for _ in range(num_draws):
        grown: dict[TokenSet, float] = {}
        for drawn, probability in law.items():
            fresh = {x: float(q) for x, q in enumerate(draft_probs) if q > 0.0 and (replacement or x not in drawn)}
            total = sum(fresh.values())
            if not fresh:
                grown[drawn] = grown.get(drawn, 0.0) + probability
            for x, q in fresh.items():
                grown[drawn | {x}] = grown.get(drawn | {x}, 0.0) + probability * q / total
        law = grown
    return law


def transport(
    target_probs: Probs,  # [vocab]
    law: dict[TokenSet, float],
) -> Transport:
    """A largest flow, by shortest augmenting paths (Edmonds and Karp): it ends after a number of paths that depends
    on the graph alone, for each path empties one edge exactly, in floats too."""
    flow: Transport = {drawn: dict.fromkeys(sorted(drawn), 0.0) for drawn in law}
    supply = dict(law)
    demand = target_probs.tolist()
    while (steps := _augmenting_path(flow, supply, demand)) is not None:
        source, sink = steps[0][0], steps[-1][1]
        # Every second step undoes flow from another set: (S, x) forward, (S', x) back, (S', x') forward, ...
        undone = [(steps[i + 1][0], steps[i][1]) for i in range(len(steps) - 1)]
        amount = min(supply[source], demand[sink], *(flow[drawn][x] for drawn, x in undone))
        supply[source] -= amount
        demand[sink] -= amount
        for drawn, x in steps:
            flow[drawn][x] += amount
        for drawn, x in undone:
            flow[drawn][x] -= amount
    return flow


def acceptance_bound(
    target_probs: Probs,  # [vocab]
    draft_probs: Probs,  # [vocab]
    num_draws: int,
    *,
    replacement: bool = True,
) -> float:
    """Largest probability with which a token from target_probs can lie among the draws."""
    if replacement:
        order = np.argsort(ratios(target_probs, draft_probs, undrawn=np.inf), kind="stable")
        targets = np.concatenate([[0.0], np.cumsum(target_probs[order])])
        drafts = np.minimum(np.concatenate([[0.0], np.cumsum(draft_probs[order])]), 1.0)
        return float(np.min(targets + 1.0 - drafts**num_draws))
    law = set_law(draft_probs, num_draws, replacement=False)
    tokens = range(len(target_probs))
    return min(
        float(sum(target_probs[x] for x in chosen)) + sum(p for drawn, p in law.items() if not drawn <= set(chosen))
        for size in range(len(target_probs) + 1)
        for chosen in itertools.combinations(tokens, size)
    )


def prefix_bound(target: Model, drafter: Model, *, num_paths: int, depth: int) -> float:
    """Bound on the tokens that any exact rule commits per round, given independent paths of this depth.

    A round that accepts i tokens commits a prefix of i tokens that one of the paths begins with, and an exact rule's
    text has the target's distribution. So the chance of accepting i tokens or more is at most what transport allows
    between whole prefixes of i tokens and k drawn ones; their sum over i, plus one, bounds the round. It is not always
    reached: a rule must also leave the rest of the text to the target.
    """
    prefixes: list[tuple[tuple[int, ...], float, float]] = [((), 1.0, 1.0)]
    total = 1.0
    for _ in range(depth):
        prefixes = [
            ((*prefix, x), p * float(next_p), q * float(next_q))
            for prefix, p, q in prefixes
            for x, (next_p, next_q) in enumerate(
                zip(normalised(target(prefix)), normalised(drafter(prefix)), strict=True)
            )
        ]
        total += acceptance_bound(
            np.array([p for _, p, _ in prefixes]), np.array([q for _, _, q in prefixes]), num_paths
        )
    return total


def settle(draft: SampledDraft, coin: Coin) -> Settled:
    accepted: list[int] = []
    row = 0
    while draft.draws[row]:
        nodes = {draft.tokens[node]: node for node in draft.draws[row]}
        law, flow, left = _plan(
            draft.target_probs[row].tobytes(),
            draft.draft_probs[row].tobytes(),
            len(draft.draws[row]),
            draft.replacement,
        )
        drawn, candidates = frozenset(nodes), sorted(nodes)
        weights = [flow[drawn][x] for x in candidates]
        # A set so unlikely that its probability is 0 in float64 is never taken: any answer is as good.
        weights.append(max(0.0, law[drawn] - sum(weights)) if law[drawn] > 0.0 else 1.0)
        choice = coin.choose(np.array(weights))
        if choice == len(candidates):
            return Settled(accepted=tuple(accepted), next_token=coin.choose(left))
        accepted.append(nodes[candidates[choice]])
        row = accepted[-1] + 1
    return Settled(accepted=tuple(accepted), next_token=coin.choose(draft.target_probs[row]))


@lru_cache(maxsize=4096)  # rows recur, round after round, and the flow is by far the dearest part
def _plan(
    target: bytes, proposal: bytes, num_draws: int, replacement: bool
) -> tuple[dict[TokenSet, float], Transport, Probs]:
    """At a node with these rows: the law of drawn sets, the transport, and what it leaves of the target's [vocab]."""
    target_probs, draft_probs = np.frombuffer(target), np.frombuffer(proposal)
    law = set_law(draft_probs, num_draws, replacement=replacement)
    flow = transport(target_probs, law)
    left = target_probs.copy()
    for amounts in flow.values():
        for x, amount in amounts.items():
            left[x] -= amount
    left = np.maximum(left, 0.0)
    return law, flow, left if left.any() else target_probs


def _augmenting_path(
    flow: Transport, supply: dict[TokenSet, float], demand: list[float]
) -> list[tuple[TokenSet, int]] | None:
    """Shortest way from a set with supply to a token with demand: its forward steps (set, token); None if there is no
    way. Between two of them the flow from the next step's set to this step's token is undone."""
    came_from: dict[TokenSet, tuple[TokenSet, int] | None] = {drawn: None for drawn, left in supply.items() if left > 0}
    queue = deque(came_from)
    seen_tokens: set[int] = set()
    while queue:
        drawn = queue.popleft()
        for x in flow[drawn]:
            if x in seen_tokens:
                continue
            seen_tokens.add(x)
            if demand[x] > 0.0:
                steps = [(drawn, x)]
                while (before := came_from[steps[0][0]]) is not None:
                    steps.insert(0, before)
                return steps
            for other, amounts in flow.items():
                if other not in came_from and amounts.get(x, 0.0) > 0.0:
                    came_from[other] = (drawn, x)
                    queue.append(other)
    return None
