"""A fleet inside one process: drafters, tree, budget and routing around one engine, with function calls for a network.

Everything a round needs happens one after the other here: draft, choose, verify, learn. It shows what the pieces do
together and what is committed; what overlapping drafting with verification gains is the service's to show.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from contracts.types import DrafterId, DraftNode, SamplingParams, SequenceId, TenantId, Verdict
from engine.work import StepResult, Verify
from speculation.budget import Ready, RoundBudget
from speculation.cost import CostTable
from speculation.drafting import Drafting
from speculation.frontier import Frontier
from speculation.fusion import FusionKind, StepProposal, fuse_step
from speculation.roster import Member, Roster
from workers.drafters.drafter import Ask, Commit, Drafter, Opening
from workers.drafters.registry import MODEL_KINDS
from workers.pruning import Pruner, PruningLook

__all__ = ["DrafterFigures", "LocalFleet", "Speculate"]

_TENANT = TenantId("local")
_COMB = 4  # candidates of a fused step
_HOPELESS = 0.02  # a fused path worth less is not drafted on
_ROUTE_EVERY = 4  # rounds
# What a draft step takes until it was measured: a lookup, and a pass of a small model.
_LOOKUP_S, _MODEL_S = 1e-4, 5e-4
_ROUND_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Speculate:
    """How to speculate. vanilla: one drafter's chain of `max_draft`; tree: one drafter's tree, cut by the budget;
    fused: several drafters' trees as one. `routed`: drafters are chosen for each sequence, not taken in order."""

    mode: str
    max_draft: int = 8
    routed: bool = False
    fusion: FusionKind = FusionKind.MERGED
    num_cooperating: int = 3


@dataclass(kw_only=True, slots=True)
class DrafterFigures:
    """What one drafter did. A node that several said counts for each."""

    num_proposed: int = 0
    num_checked: int = 0
    num_accepted: int = 0
    num_rounds: int = 0
    drafting_s: float = 0.0


@dataclass(kw_only=True, slots=True)
class _Open:
    drafting: Drafting
    tokens: list[int]
    num_prompt: int
    sampling: SamplingParams
    followers: set[DrafterId] = field(default_factory=set)
    checked: Frontier = field(default_factory=lambda: Frontier(position=0))
    said_by: tuple[tuple[DrafterId, ...], ...] = ()


class LocalFleet:
    """See the module."""

    def __init__(
        self,
        drafters: Mapping[DrafterId, Drafter],
        how: Speculate,
        *,
        max_rows: int,
        cost: CostTable,
        pruner: Pruner | None = None,
    ) -> None:
        self.drafters, self.how, self.cost, self.pruner = dict(drafters), how, cost, pruner
        self.figures = {drafter: DrafterFigures() for drafter in drafters}
        self.num_logprobs = max((drafter.num_logprobs for drafter in drafters.values()), default=0)
        """Of how many of the target's likeliest tokens the drafters learn; verdicts should carry so many."""
        self.roster = Roster()
        for name, drafter in drafters.items():
            has_model = drafter.kind in MODEL_KINDS
            step_s = _MODEL_S if has_model else _LOOKUP_S
            self.roster.join(Member(drafter=name, has_logits=has_model, step_s=step_s))
        self._budget = RoundBudget(max_rows=max_rows)
        self._sequences: dict[SequenceId, _Open] = {}
        self._num_rounds = 0

    def open(self, sequence: SequenceId, tokens: Sequence[int], sampling: SamplingParams) -> None:
        """A sequence that will be decoded."""
        drafting = self.roster.open(_TENANT, tokens, temperature=sampling.temperature)
        drafting.drafters = tuple(self.drafters)[: 1 if self.how.mode != "fused" else None]
        self._sequences[sequence] = _Open(
            drafting=drafting, tokens=list(tokens), num_prompt=len(tokens), sampling=sampling
        )
        if self.how.routed:
            self._route()

    def close(self, sequence: SequenceId) -> None:
        """It has ended; what it taught stays."""
        found = self._sequences.pop(sequence)
        self.roster.learn(found.drafting)
        for drafter in found.followers:
            self.drafters[drafter].close([sequence])

    def frontiers(self, depths: Mapping[SequenceId, int], *, max_nodes: int) -> dict[SequenceId, tuple[DraftNode, ...]]:
        """What the next round checks of these sequences, each no deeper than stated, together at most `max_nodes`."""
        self._num_rounds += 1
        if self.how.routed and self._num_rounds % _ROUTE_EVERY == 0:
            self._route()
        each = min(self.how.max_draft, max_nodes // max(len(depths), 1))
        able = {sequence: min(depth, each) for sequence, depth in depths.items() if depth > 0 and each > 0}
        for sequence in able:
            for drafter in self._sequences[sequence].drafting.drafters:
                self.figures[drafter].num_rounds += 1
        if self.how.mode == "fused" and self.how.fusion is FusionKind.EVERY_STEP:
            self._draft_together(able)
        else:
            self._draft_apart(able)
        chosen = self._chosen(able, each)
        for sequence in depths:
            found = self._sequences[sequence]
            found.checked = found.drafting.tree.frontier_of(chosen.get(sequence, ()))
            found.said_by = tuple(tuple(found.drafting.tree[node].said) for node in found.checked.ids)
            found.drafting.tree.start(found.checked)
        return {sequence: self._sequences[sequence].checked.nodes for sequence in depths}

    def look(self, work: Sequence[Verify]) -> PruningLook | None:
        """Who looks at the rows of this work between layers, if anyone."""
        return self.pruner.begin(work, self.cost) if self.pruner is not None and self.cost else None

    def learn(self, work: Sequence[Verify], step: StepResult, look: PruningLook | None) -> None:
        """What a step decided, and what it cost."""
        for outcome in step.outcomes:
            if isinstance(outcome, Verdict):
                self._settle(outcome)
        if look is None:
            self.cost.observe(step.report)  # looks take time of their own, which is no row's
        elif self.pruner is not None:
            self.pruner.settle(look, work, step.outcomes)

    # Inside

    def _settle(self, verdict: Verdict) -> None:
        found = self._sequences[verdict.sequence]
        self._count(found, verdict)
        found.drafting.settle(verdict)
        found.tokens += verdict.tokens
        commit = Commit(
            sequence=verdict.sequence, position=verdict.position, tokens=verdict.tokens, logprobs=verdict.logprobs
        )
        for drafter in found.followers:
            self.drafters[drafter].commit([commit])

    def _route(self) -> None:
        """Chooses drafters for every sequence, at what a round without drafts takes now."""
        draftings = [found.drafting for found in self._sequences.values()]
        num_keys = sum(drafting.tree.next_position for drafting in draftings)
        self.roster.assign(
            draftings,
            round_s=self.cost.cost_s(len(draftings), num_keys) if self.cost and draftings else _ROUND_S,
            num_cooperating=self.how.num_cooperating if self.how.mode == "fused" else 1,
        )

    def _draft_apart(self, depths: Mapping[SequenceId, int]) -> None:
        """Every drafter draws its own tree for each of its sequences."""
        max_children = 1 if self.how.mode == "vanilla" else None
        asks: dict[DrafterId, list[Ask]] = {}
        for sequence, depth in depths.items():
            num_nodes = depth if max_children == 1 else self.how.max_draft
            for drafter in self._sequences[sequence].drafting.drafters:
                ask = Ask(sequence=sequence, num_nodes=num_nodes, max_depth=depth, max_children=max_children)
                asks.setdefault(drafter, []).append(ask)
        for drafter, wanted in asks.items():
            for ask, nodes in zip(wanted, self._propose(drafter, wanted), strict=True):
                self._sequences[ask.sequence].drafting.take(drafter, nodes)

    def _draft_together(self, depths: Mapping[SequenceId, int]) -> None:
        """After every step the surest token of all drafters becomes the next input of each; the others stay."""
        paths: dict[SequenceId, tuple[int, ...]] = dict.fromkeys(depths, ())
        value = dict.fromkeys(depths, 1.0)
        for level in range(max(depths.values(), default=0)):
            going = [sequence for sequence in paths if level < depths[sequence] and value[sequence] > _HOPELESS]
            asks: dict[DrafterId, list[Ask]] = {}
            for sequence in going:
                ask = Ask(sequence=sequence, num_nodes=_COMB, below=paths[sequence], max_depth=1, max_children=_COMB)
                for drafter in self._sequences[sequence].drafting.drafters:
                    asks.setdefault(drafter, []).append(ask)
            said: dict[SequenceId, list[StepProposal]] = {}
            for drafter, wanted in asks.items():
                for ask, nodes in zip(wanted, self._propose(drafter, wanted), strict=True):
                    tree = self._sequences[ask.sequence].drafting.tree
                    placed = self._sequences[ask.sequence].drafting.take(drafter, nodes, below=ask.below)
                    candidates = [
                        (tree[node].token, tree[node].said[drafter].confidence) for node in placed if node is not None
                    ]
                    said.setdefault(ask.sequence, []).append(
                        StepProposal(drafter=drafter, candidates=tuple(candidates))
                    )
            for sequence in going:
                fused = fuse_step(said.get(sequence, []), self._sequences[sequence].drafting.combine)
                value[sequence] *= fused[0].confidence if fused else 0.0
                paths[sequence] = (*paths[sequence], fused[0].token) if fused else paths[sequence]

    def _propose(self, drafter: DrafterId, asks: list[Ask]) -> list[tuple[DraftNode, ...]]:
        new = [ask.sequence for ask in asks if drafter not in self._sequences[ask.sequence].followers]
        began_s = time.perf_counter()
        self._follow(drafter, new)
        trees = self.drafters[drafter].propose(asks)
        elapsed_s = time.perf_counter() - began_s
        figures = self.figures[drafter]
        figures.drafting_s += elapsed_s
        figures.num_proposed += sum(len(tree) for tree in trees)
        if not new and elapsed_s > 0.0:  # a first ask computes the prompt too
            deepest = max((_depth(tree) for tree in trees), default=0)
            self.roster.observe_step(drafter, num_sequences=len(asks), elapsed_s=elapsed_s / max(deepest, 1))
        return trees

    def _follow(self, drafter: DrafterId, sequences: Sequence[SequenceId]) -> None:
        """Opens sequences at a drafter that was not asked about them before: what was answered is no prompt."""
        found = [(sequence, self._sequences[sequence]) for sequence in sequences]
        self.drafters[drafter].open(
            [
                Opening(
                    sequence=sequence, tenant=_TENANT, tokens=tuple(one.tokens[: one.num_prompt]), sampling=one.sampling
                )
                for sequence, one in found
            ]
        )
        self.drafters[drafter].commit(
            [
                Commit(sequence=sequence, position=one.num_prompt, tokens=tuple(one.tokens[one.num_prompt :]))
                for sequence, one in found
                if len(one.tokens) > one.num_prompt
            ]
        )
        for _, one in found:
            one.followers.add(drafter)

    def _chosen(self, depths: Mapping[SequenceId, int], max_nodes: int) -> Mapping[SequenceId, tuple[int, ...]]:
        """Tree ids of the nodes to check. Nodes too deep for what is left to decode are not."""
        trees = {sequence: self._sequences[sequence].drafting.tree for sequence in depths}
        if self.how.mode == "vanilla" or not self.cost:
            return {sequence: tree.frontier(depths[sequence]).ids for sequence, tree in trees.items()}
        ready = [
            Ready(
                sequence=sequence,
                context=tree.next_position,
                nodes=[node for node in tree.by_value() if tree.depth(node.id) <= depths[sequence]],
                max_nodes=max_nodes,
            )
            for sequence, tree in trees.items()
        ]
        return self._budget.choose(ready, self.cost).nodes

    def _count(self, found: _Open, verdict: Verdict) -> None:
        accepted = set(verdict.accepted)
        for index, drafters in enumerate(found.said_by):
            for drafter in drafters:
                self.figures[drafter].num_checked += 1
                self.figures[drafter].num_accepted += index in accepted


def _depth(tree: Sequence[DraftNode]) -> int:
    depths: list[int] = []
    for node in tree:
        depths.append(1 if node.parent < 0 else depths[node.parent] + 1)
    return max(depths, default=0)
