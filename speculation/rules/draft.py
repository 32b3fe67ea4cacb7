"""Sampled drafts: tokens drawn from a drafter's distributions, in the order in which they were drawn.

A rule that tests drafts as *samples* is exact only if they are samples: every draw at a node comes from that node's
`draft_probs`, given the node alone, and nothing later (no look at the target, no pruning, no choice among drawn tokens)
has removed any. With `replacement` the draws of a node are independent of one another; without, each comes from what
the earlier ones have left, which is what Gumbel top-k gives. How many draws a node has may depend on draws elsewhere,
but not on their own tokens.

Paths are drawn into a trie: those that share a prefix share its nodes, for the target computes a prefix once. Given
which paths pass a node, their next tokens are still independent draws from its distribution. A token drawn twice below
a node is one node in two places of the node's `draws`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import InvalidArgument
from contracts.types import ROOT
from speculation.rules.coin import Coin, Probs

__all__ = ["Model", "Prepare", "SampledDraft", "draw_paths", "draw_tree", "normalised"]

Model = Callable[[tuple[int, ...]], Probs]
"""From the tokens below the root to weights [vocab] of the next one."""

Prepare = Callable[[Sequence[tuple[int, ...]]], None]
"""Is told all places where the target will be asked, before it is: for targets that compute many at once."""


def normalised(
    weights: Probs,  # [vocab], of any scale, down to the smallest floats
) -> Probs:
    """Weights as probabilities [vocab]."""
    largest = float(np.max(weights))
    if not (0.0 < largest < np.inf) or float(np.min(weights)) < 0.0:
        raise InvalidArgument(
            f"weights of a distribution range from {np.min(weights)} to {largest}; they are finite, none is negative "
            "and some are above 0"
        )
    # By the largest first: the sum of the smallest floats has too few bits to divide by, that of the largest none.
    scaled = weights / largest
    probs: Probs = scaled / scaled.sum()
    return probs


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledDraft:
    """A trie of drawn tokens. Row 0 belongs to the root and row 1 + i to node i, as in `contracts.verdict.walk`.

    `draws[row]` are the nodes drawn there, in order. The draft row of a node where nothing was drawn is not read.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    draws: tuple[tuple[int, ...], ...]
    target_probs: Probs  # [1 + num_nodes, vocab]
    draft_probs: Probs  # [1 + num_nodes, vocab]
    replacement: bool

    def __post_init__(self) -> None:
        for row, drawn in enumerate(self.draws):
            if not self.replacement and len(set(drawn)) < len(drawn):
                raise InvalidArgument(f"row {row} draws nodes {drawn} without replacement; no node is drawn twice")
            for node in drawn:
                if self.draft_probs[row, self.tokens[node]] <= 0.0:
                    raise InvalidArgument(
                        f"token {self.tokens[node]} of node {node} has draft probability 0; it cannot have been drawn"
                    )

    def first_path(self) -> list[int]:
        """Nodes of the first draw at the root, the first below it, and so on: one sampled path, whatever the shape."""
        path: list[int] = []
        row = 0
        while self.draws[row]:
            path.append(self.draws[row][0])
            row = path[-1] + 1
        return path

    def paths(self) -> list[list[int]]:
        """The paths that `draw_paths` drew, in order; refused where draws do not form whole paths."""
        num_used = [0] * len(self.draws)
        paths: list[list[int]] = []
        for _ in self.draws[0]:
            path: list[int] = []
            row = 0
            while self.draws[row]:
                if num_used[row] == len(self.draws[row]):
                    raise self._not_paths()
                path.append(self.draws[row][num_used[row]])
                num_used[row] += 1
                row = path[-1] + 1
            paths.append(path)
        if any(used < len(drawn) for used, drawn in zip(num_used, self.draws, strict=True)):
            raise self._not_paths()
        return paths

    def require_replacement(self, expected: bool, rule: str) -> None:
        """Refuse drafts of the other kind: the rule's argument would not hold for them."""
        if self.replacement is not expected:
            found, right = ("with", "without") if self.replacement else ("without", "with")
            raise InvalidArgument(f"rule {rule} was given tokens drawn {found} replacement; it is right for {right}")

    def _not_paths(self) -> InvalidArgument:
        return InvalidArgument(
            f"the draft's {len(self.draws[0])} draws at the root do not extend to as many whole paths; "
            "this rule is right for independent paths, as draw_paths gives them"
        )


class _Builder:
    """A trie that grows."""

    def __init__(self, target: Model, drafter: Model) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.draws: list[list[int]] = [[]]
        self._target = target
        self._drafter = drafter
        self._prefixes: list[tuple[int, ...]] = [()]
        self._node_of: dict[tuple[int, ...], int] = {}
        self._draft_rows: dict[int, Probs] = {}

    def draft_row(self, row: int) -> Probs:
        if row not in self._draft_rows:
            self._draft_rows[row] = normalised(self._drafter(self._prefixes[row]))
        return self._draft_rows[row]

    def draw(self, row: int, token: int) -> int:
        """Notes that a token was drawn at a row; the row of its node."""
        prefix = (*self._prefixes[row], token)
        node = self._node_of.get(prefix)
        if node is None:
            node = self._node_of[prefix] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(row - 1 if row else ROOT)
            self.draws.append([])
            self._prefixes.append(prefix)
        self.draws[row].append(node)
        return node + 1

    def draft(self, *, replacement: bool, prepare: Prepare | None) -> SampledDraft:
        if prepare is not None:
            prepare(self._prefixes)
        target_probs = np.array([normalised(self._target(prefix)) for prefix in self._prefixes])
        nothing = np.zeros(target_probs.shape[1])
        return SampledDraft(
            tokens=tuple(self.tokens),
            parents=tuple(self.parents),
            draws=tuple(tuple(drawn) for drawn in self.draws),
            target_probs=target_probs,
            draft_probs=np.array([self._draft_rows.get(row, nothing) for row in range(len(self.draws))]),
            replacement=replacement,
        )


def draw_paths(
    target: Model, drafter: Model, *, num_paths: int, depth: int, coin: Coin, prepare: Prepare | None = None
) -> SampledDraft:
    """Independent paths of one length from the drafter, as SpecTr and SpecInfer draw them."""
    builder = _Builder(target, drafter)
    for _ in range(num_paths):
        row = 0
        for _ in range(depth):
            row = builder.draw(row, coin.choose(builder.draft_row(row)))
    return builder.draft(replacement=True, prepare=prepare)


def draw_tree(
    target: Model,
    drafter: Model,
    *,
    branching: Sequence[int],
    replacement: bool,
    coin: Coin,
    prepare: Prepare | None = None,
) -> SampledDraft:
    """A tree with branching[d] draws at every node of depth d, fewer where a drafter has no more tokens to give."""
    builder = _Builder(target, drafter)
    level = [0]
    for num_draws in branching:
        below: list[int] = []
        for row in level:
            weights = builder.draft_row(row).copy()
            for _ in range(num_draws):
                if not weights.any():
                    break
                token = coin.choose(weights)
                child = builder.draw(row, token)
                if child not in below:
                    below.append(child)
                if not replacement:
                    weights[token] = 0.0
        level = below
    return builder.draft(replacement=replacement, prepare=prepare)
