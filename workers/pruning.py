"""Early pruning inside the target's pass: `speculation.pruning` as the engine's look between two layers.

A node is judged at its parent's row, for there the target chooses: what leaves the layer is put through the final norm
and the output head, as if it were the last, and the vocabulary entries above the node's own token are counted. Nodes of
a `Verify` alone can leave; rows of committed tokens and of drafts stay, since later steps read their keys.

Nothing that a look does can change the text: a node that left is nobody's choice, and the target's own choice at its
parent is committed whatever it is. What pruning costs are tokens that would have been accepted; the policy hears of
each, where the verdict shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.clock import Clock, SystemClock
from contracts.errors import TopologyError
from contracts.types import ROOT, Verdict
from engine.engine import Engine
from engine.likelier import num_likelier
from engine.work import Outcome, Verify, Work
from speculation.cost import StepCost
from speculation.pruning import PruningGate, PruningPolicy

__all__ = ["Pruner", "PruningLook", "pruner_from"]

_LOWEST, _HIGHEST = 8, 4096  # K, unless it starts outside
_CHECK_MEMORY = 0.1  # a new check's time weighs so much in what a check is known to take


class Pruner:
    """Prunes one engine's steps: `begin` before a step, its answer as the step's hook, `settle` after it."""

    def __init__(
        self, engine: Engine, policy: PruningPolicy, *, gate: PruningGate | None = None, clock: Clock | None = None
    ) -> None:
        if engine.executor.ranks.size > 1:
            raise TopologyError(
                f"pruning needs the whole vocabulary on one rank, and the engine has {engine.executor.ranks.size}; "
                "run it on 1, or without pruning"
            )
        self.policy = policy
        self._engine = engine
        self._gate = gate or PruningGate(policy, num_layers=len(engine.executor.weights.layers))
        self._clock = clock or SystemClock()
        self._check_s = dict.fromkeys(policy.layers, 0.0)

    def begin(self, work: Sequence[Work], cost: StepCost) -> PruningLook | None:
        """The hook of the next step, None where no look is worth its time."""
        rows = _rows_of(self._engine, work)
        num_nodes = int(rows.is_node.sum())
        if num_nodes == 0:
            return None
        round_s = cost.cost_s(rows.count, rows.num_context)
        without_s = cost.cost_s(rows.count - num_nodes, rows.num_context - rows.num_node_context)
        layers = tuple(
            layer
            for layer in self.policy.layers
            if self._gate.checks(
                layer,
                num_rows=num_nodes,
                row_s=(round_s - without_s) / num_nodes,
                check_s=self._check_s[layer],
                redraft_s=round_s / len(work),
            )
        )
        return PruningLook(layers, rows, self._engine, self.policy, self._clock) if layers else None

    def settle(self, look: PruningLook, work: Sequence[Work], outcomes: Sequence[Outcome]) -> None:
        """Learns from what a step's look did and what became of it."""
        for check in look.checks:
            self.policy.observe_check(check.layer, num_checked=check.num_checked, num_pruned=check.num_pruned)
            known_s = self._check_s[check.layer] or check.elapsed_s
            self._check_s[check.layer] = known_s + _CHECK_MEMORY * (check.elapsed_s - known_s)
        for first_row, piece, outcome in zip(look.rows.first_nodes, work, outcomes, strict=True):
            if isinstance(piece, Verify) and isinstance(outcome, Verdict):
                self._learn_fates(look, first_row, piece, outcome)

    def _learn_fates(self, look: PruningLook, first_row: int, piece: Verify, verdict: Verdict) -> None:
        """A node that left below an accepted one left for its own rank, and the target's choice there is known."""
        chosen_below = dict(zip((ROOT, *verdict.accepted), verdict.tokens, strict=True))
        for index, node in enumerate(piece.nodes):
            layer = look.left_after.get(first_row + index)
            if layer is not None and node.parent in chosen_below:
                self.policy.observe_fate(layer, was_wrong=chosen_below[node.parent] == node.token)


def pruner_from(engine: Engine, start: Mapping[int, int]) -> Pruner | None:
    """One that learns from these numbers on, K by layer; None where there are none."""
    if not start:
        return None
    lowest, highest = min(_LOWEST, *start.values()), max(_HIGHEST, *start.values())
    return Pruner(engine, PruningPolicy(start, lowest=lowest, highest=highest))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    layer: int
    num_checked: int
    num_pruned: int
    elapsed_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """The rows of a step in the order in which the engine packs them: of each piece what is pending, then its nodes."""

    tokens: NDArray[np.int64]  # [count]; of nodes that can leave
    parents: NDArray[np.int64]  # [count]: the row below which the token is chosen; -1 where nobody asks
    is_node: NDArray[np.bool_]  # [count]: whether it can leave
    first_nodes: list[int]  # of each piece of work
    num_context: int
    num_node_context: int

    @property
    def count(self) -> int:
        return self.tokens.size


def _rows_of(engine: Engine, work: Sequence[Work]) -> _Rows:
    tokens: list[int] = []
    parents: list[int] = []
    first_nodes: list[int] = []
    num_context = num_node_context = 0
    for piece in work:
        num_pending = engine.num_pending(piece.sequence) if piece.num_pending is None else piece.num_pending
        keys = len(engine.tokens_of(piece.sequence))
        tokens += [ROOT] * num_pending
        parents += [ROOT] * num_pending
        first_nodes.append(first := len(tokens))
        num_context += keys * (num_pending + len(piece.nodes))
        if isinstance(piece, Verify):
            tokens += [node.token for node in piece.nodes]
            parents += [first + node.parent for node in piece.nodes]  # ROOT is the row before the first node
            num_node_context += keys * len(piece.nodes)
        else:
            tokens += [ROOT] * len(piece.nodes)
            parents += [ROOT] * len(piece.nodes)
    above = np.array(parents, dtype=np.int64)
    return _Rows(
        tokens=np.array(tokens, dtype=np.int64),
        parents=above,
        is_node=above >= 0,
        first_nodes=first_nodes,
        num_context=num_context,
        num_node_context=num_node_context,
    )


@dataclass(slots=True)
class PruningLook:
    """The `LayerHook` of one step; remembers what it did."""

    layers: tuple[int, ...]
    rows: _Rows
    engine: Engine
    policy: PruningPolicy
    clock: Clock
    checks: list[_Check] = field(default_factory=list)
    left_after: dict[int, int] = field(default_factory=dict)
    """The layer after which a row left."""

    def __call__(
        self,
        layer: int,
        hidden: torch.Tensor,  # [rows still there, hidden] float32
        rows: torch.Tensor,  # [rows still there] int64
    ) -> torch.Tensor | None:
        began_s = self.clock.now_s()
        alive = rows.numpy()
        is_node = self.rows.is_node[alive]
        if not is_node.any():
            return None
        place_of = np.full(self.rows.count, -1, dtype=np.int64)
        place_of[alive] = np.arange(alive.size)
        # A parent is there wherever its child is, for whoever leaves takes its descendants along.
        parents = np.where(is_node, place_of[self.rows.parents[alive]], -1)
        num_above = np.zeros(alive.size, dtype=np.int64)
        num_above[is_node] = num_likelier(
            self.engine.executor.weights,
            hidden,
            parents[is_node],
            self.rows.tokens[alive][is_node],
            num_real_tokens=self.engine.limits.num_real_tokens,
        )
        stay = self.policy.stay(layer, num_above, parents, is_node)
        self.left_after.update(dict.fromkeys(alive[~stay].tolist(), layer))
        self.checks.append(
            _Check(
                layer=layer,
                num_checked=int(is_node.sum()),
                num_pruned=int((~stay).sum()),
                elapsed_s=self.clock.now_s() - began_s,
            )
        )
        return torch.from_numpy(stay)
