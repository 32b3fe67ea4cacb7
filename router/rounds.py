"""What the next round holds: prompts in chunks, plain steps, and the part of every tree that is worth checking now.

Two questions are put to `speculation/`: which nodes (the budget), and whether to go now or wait for drafts that are
due. Neither looks at anything the verifier knows about the round.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.clock import Clock
from contracts.types import SequenceId
from router.orders import LINK_S, RoundItem
from router.sequence import RoutedSequence
from speculation.budget import Ready, RoundBudget
from speculation.cost import CostTable
from speculation.frontier import Frontier
from speculation.reach import ALL, Reach, reach
from speculation.roster import Roster
from speculation.tree_node import TreeNode
from speculation.waiting import Due, wait_s

__all__ = ["WORTHLESS", "PlannedRound", "RoundMaker"]

_PATIENCE_S = 0.5  # how long a sequence that waits for its drafter waits at most
_SOON_S = 0.0003  # when a draft is due that is late already
WORTHLESS = 0.02  # accepted tokens for which nobody waits
_CHUNK_ROWS = 128  # of prompts in a round that others decode in; more where their next token comes hardly later
_PROMPTS_PART = 4  # so much of the rows, or a chunk, prompts have in any case, whatever drafts there are to check
_NOTHING_WORTHLESS = Reach(least_value=WORTHLESS)
_NEAR = 64  # tokens of context that make no difference to a price
_HARDLY = 1.25  # times as late as without more rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRound:
    """Items in the order of their sequences; without items it is to be asked again after `wait_s`."""

    items: tuple[RoundItem, ...] = ()
    sequences: tuple[RoutedSequence, ...] = ()
    wait_s: float = 0.0


class RoundMaker:
    """See the module."""

    def __init__(self, clock: Clock, roster: Roster, cost: CostTable, *, max_rows: int) -> None:
        self.clock, self.roster, self.cost = clock, roster, cost
        self.max_rows = max_rows
        self._budget = RoundBudget(max_rows=max_rows)

    def plan(self, sequences: Sequence[RoutedSequence]) -> PlannedRound:
        """The next round of these sequences, none of which is in one; the more important first."""
        decoding = [sequence for sequence in sequences if sequence.is_decoding]
        reading = [sequence for sequence in sequences if not sequence.is_decoding]
        held = [sequence for sequence in decoding if self._is_held(sequence)]
        going = [sequence for sequence in decoding if sequence not in held]
        if not going and not reading:
            return PlannedRound(wait_s=self._patience_left_s(held) if held else 0.0)
        if held and (delay_s := self._until_all_s(held)) > 0.0:
            return PlannedRound(wait_s=delay_s)
        least_value = self._least_value(sequences, reading)
        max_rows = self.max_rows - self._kept_for_prompts(reading)
        frontiers = self._frontiers(going, max_rows=max_rows, least_value=least_value)
        if not reading and (delay_s := self._wait_s(going, frontiers)) > 0.0:
            return PlannedRound(wait_s=delay_s)
        items: list[RoundItem] = []
        chosen: list[RoutedSequence] = []
        for sequence in going:
            if sequence.id in frontiers:
                items.append(self._item(sequence, frontiers[sequence.id], None))
                chosen.append(sequence)
        self._add_prompts(reading, items, chosen, is_shared=bool(items), least_value=least_value)
        return PlannedRound(items=tuple(items), sequences=tuple(chosen))

    def round_s(self) -> float:
        """What a round of one row costs: the time that drafting can hide behind."""
        return self.cost.cost_s(1, 1) if self.cost else 0.02

    def price_drafting(self, sequences: Collection[RoutedSequence]) -> None:
        """Says of each of these, which run at the same time, how far its drafters should go."""
        drafting = [s for s in sequences if s.parts.max_drafters > 0 and not s.is_plain and s.drafting.members]
        num_together = sum(s.is_decoding and not s.runs_ahead for s in drafting)
        rounds_s: dict[tuple[int, int], list[float]] = {}
        for s in drafting:
            if not (s.parts.is_budgeted and self.cost):
                s.reach = ALL
            elif s.runs_ahead:
                s.reach = _NOTHING_WORTHLESS  # what the target does meanwhile takes no longer for it
            else:
                size = s.max_draft, -(-s.position // _NEAR) * _NEAR
                if size not in rounds_s:
                    rounds_s[size] = self._rounds_s(*size, max(num_together, 1))
                s.reach = self._reach(s, rounds_s[size])

    def goes_without(self, sequence: RoutedSequence) -> bool:
        """Whether a round that it goes into now has stopped waiting for its drafters. Before its last token nobody
        waits for them."""
        may_wait = sequence.is_decoding and sequence.num_left > 1
        return may_wait and sequence.awaits_drafts and not self._is_patient(sequence)

    # Inside

    def _is_held(self, sequence: RoutedSequence) -> bool:
        """Whether it drafts and verifies in turn, and it is the drafter's turn."""
        drafts_first = not sequence.runs_ahead and sequence.num_left > 1
        return drafts_first and sequence.awaits_drafts and self._is_patient(sequence)

    def _is_patient(self, sequence: RoutedSequence) -> bool:
        return self.clock.now_s() - sequence.asked_s < _PATIENCE_S

    def _patience_left_s(self, held: Sequence[RoutedSequence]) -> float:
        """Until the first of them goes without its drafters."""
        return max(min(s.asked_s for s in held) + _PATIENCE_S - self.clock.now_s(), _SOON_S)

    def _reach(self, sequence: RoutedSequence, rounds_s: Sequence[float]) -> Reach:
        drafting = sequence.drafting
        best = max(drafting.drafters or drafting.members, key=lambda each: (drafting.scores.score(each), each))
        return reach(
            agreement=drafting.scores.score(best),
            step_s=self.roster.step_s(best),
            link_s=LINK_S,
            rounds_s=rounds_s,
        )

    def _rounds_s(self, max_draft: int, num_context: int, num_sequences: int) -> list[float]:
        """What a round of so many sequences takes with 0, 1, ... nodes of each."""
        rows = num_sequences * np.arange(1.0, max_draft + 2.0)
        costs_s: list[float] = self.cost.costs_s(rows, rows * num_context).tolist()
        return costs_s

    def _until_all_s(self, held: Sequence[RoutedSequence]) -> float:
        """How long until those whose drafters' turn it is should be ready too. Without them a round reads the weights
        for a part of the sequences, and they do so again; so it waits, but not longer than a round takes."""
        now_s = self.clock.now_s()
        step_s = {drafter: self.roster.step_s(drafter) for drafter in {d for s in held for d in s.drafting.drafters}}
        delay_s = max(
            s.asked_s + LINK_S + _num_steps(s) * max(step_s[drafter] for drafter in s.drafting.drafters) - now_s
            for s in held
        )
        return delay_s if delay_s < self.round_s() else 0.0

    def _kept_for_prompts(self, reading: Sequence[RoutedSequence]) -> int:
        """Rows that those who read have in any case."""
        return min(sum(map(_num_pending, reading)), _CHUNK_ROWS, -(-self.max_rows // _PROMPTS_PART))

    def _least_value(self, sequences: Sequence[RoutedSequence], reading: Sequence[RoutedSequence]) -> float:
        """What a node has to be worth beside prompts. A row costs there what it adds to a long round, and
        that time could go to rounds of all these sequences, which decide at least what plain ones do."""
        if not (reading and self.cost):
            return 0.0
        num, num_more = len(sequences), max(s.max_draft for s in sequences)
        context = sum(s.position for s in sequences) / num
        plain_s = self.cost.cost_s(num, num * context)
        num_rows = num + self._kept_for_prompts(reading)
        added_s = self.cost.cost_s(num_rows + num_more, (num_rows + num_more) * context)
        added_s -= self.cost.cost_s(num_rows, num_rows * context)
        return min(num / plain_s * added_s / num_more, 1.0)

    def _frontiers(
        self, sequences: Sequence[RoutedSequence], *, max_rows: int, least_value: float
    ) -> dict[SequenceId, Frontier]:
        """What each of them would check now: each goes on by a token, and nodes that are worth it get the rows that are
        left. Those for which there is no room are left out, and are the first the next time."""
        if len(sequences) > max_rows:
            sequences = sorted(sequences, key=lambda s: (-s.priority, s.decided_s))[:max_rows]
        fixed = {s.id: self._fixed(s) for s in sequences if not (s.parts.is_budgeted and self.cost)}
        ready = [
            Ready(
                sequence=s.id,
                context=s.position,
                nodes=_shallow(s, least_value),
                max_nodes=min(s.max_draft, s.num_left - 1),
                priority=s.priority,
            )
            for s in sequences
            if s.id not in fixed
        ]
        self._budget.max_rows = max_rows - len(fixed)
        chosen = dict(self._budget.choose(ready, self.cost).nodes) if ready else {}
        frontiers = {s.id: s.drafting.tree.frontier_of(chosen[s.id]) for s in sequences if s.id in chosen}
        room = max_rows - len(sequences) - sum(map(len, chosen.values()))
        # What those with few nodes leave is there for the others, so the fewest come first.
        drafted = sorted((s for s in sequences if s.id in fixed), key=lambda s: len(fixed[s.id]))
        for num_before, s in enumerate(drafted):
            nodes = fixed[s.id][: room // (len(drafted) - num_before)]
            frontiers[s.id] = s.drafting.tree.frontier_of(nodes)
            room -= len(nodes)
        return frontiers

    def _fixed(self, sequence: RoutedSequence, least_value: float = 0.0) -> list[int]:
        """Its best nodes, at most as many as it may have."""
        if sequence.parts.max_drafters == 0:
            return []
        most = min(sequence.max_draft, sequence.num_left - 1)
        return [node.id for _, node in zip(range(most), _shallow(sequence, least_value), strict=False)]

    def _wait_s(self, sequences: Sequence[RoutedSequence], frontiers: dict[SequenceId, Frontier]) -> float:
        """How long what is due is worth waiting for."""
        awaiting = {s.id for s in sequences if s.runs_ahead and s.awaits_drafts and self._is_patient(s)}
        if not self.cost or not awaiting:
            return 0.0
        tokens, num_rows, num_context = 0.0, 0, 0
        due: dict[int, list[Due]] = {}
        now_s = self.clock.now_s()
        for s in sequences:
            ids = frontiers[s.id].ids if s.id in frontiers else ()
            values = [s.drafting.tree[node].value for node in ids]
            tokens += 1.0 + sum(values)
            num_rows += 1 + len(ids)
            num_context += (1 + len(ids)) * s.position
            if s.id in awaiting:
                for ahead, each in enumerate(self._due(s, ids, now_s)):
                    due.setdefault(ahead, []).append(each)
        return wait_s(
            ready_tokens=tokens,
            num_rows=num_rows,
            num_context=num_context,
            due=[_together(each) for each in due.values()],
            cost=self.cost,
            max_wait_s=0.1,
        )

    def _due(self, sequence: RoutedSequence, ids: Sequence[int], now_s: float) -> list[Due]:
        """The next steps of its best drafter, below the most promising end of what there is."""
        drafter = next(d for d in sequence.drafting.drafters if d not in sequence.finished_drafters)
        step_s, agreement = self.roster.step_s(drafter), sequence.drafting.scores.score(drafter)
        depth = max((sequence.drafting.tree.depth(node) for node in ids), default=0)
        value = _best_end(sequence, ids)
        # Drafters that step together are asked for every step anew, the last time for this one.
        each_s = step_s + (LINK_S if sequence.steps is not None else 0.0)
        num_before = 0 if sequence.steps is not None else depth
        late_s = now_s - (sequence.asked_s + LINK_S + (num_before + 1) * step_s)
        # Something that should have been here long ago may not come at all.
        chance = 1.0 if late_s < 5 * step_s else 0.2
        due = []
        for ahead in range(1, min(sequence.max_draft, sequence.num_left - 1) - depth + 1):
            value *= agreement
            if value < WORTHLESS:
                break
            in_s = max(_SOON_S, -late_s) + (ahead - 1) * each_s
            due.append(Due(in_s=in_s, tokens=value, num_rows=1, num_context=sequence.position, chance=chance))
        return due

    def _add_prompts(
        self,
        reading: Sequence[RoutedSequence],
        items: list[RoundItem],
        chosen: list[RoutedSequence],
        *,
        is_shared: bool,
        least_value: float,
    ) -> None:
        room = self.max_rows - sum(1 + len(item.nodes) for item in items)
        room = min(room, self._chunk_rows(items)) if is_shared else room
        rows = _shared_out(room, reading)
        spare = room - sum(rows.values())
        for sequence in reading:
            if not (num_rows := rows[sequence.id]):
                continue
            if num_rows < _num_pending(sequence):
                items.append(self._item(sequence, Frontier(position=sequence.position), num_rows))
            else:
                # The last chunk decides a token, and drafts that are there already come along.
                nodes = self._fixed(sequence, least_value if sequence.parts.is_budgeted else 0.0)[:spare]
                items.append(self._item(sequence, sequence.drafting.tree.frontier_of(nodes), None))
                spare -= len(nodes)
            chosen.append(sequence)

    def _chunk_rows(self, items: Sequence[RoundItem]) -> int:
        """How many rows of prompts may share a round with these."""
        chunk = _CHUNK_ROWS
        if self.cost:
            num_rows = chunk + sum(1 + len(item.nodes) for item in items)
            context = num_rows * max(item.position for item in items)
            most_s = _HARDLY * self.cost.cost_s(num_rows, context)
            while chunk < self.max_rows and self.cost.cost_s(num_rows + chunk, context) <= most_s:
                chunk, num_rows = 2 * chunk, num_rows + chunk
        return chunk

    def _item(self, sequence: RoutedSequence, frontier: Frontier, num_pending: int | None) -> RoundItem:
        masks: tuple[bytes, ...] = ()
        if sequence.constraint is not None and num_pending is None:
            masks = sequence.constraint.masks(
                [node.token for node in frontier.nodes], [node.parent for node in frontier.nodes]
            )
        if num_pending is None:
            sequence.drafting.tree.start(frontier)
        return RoundItem(
            sequence=sequence.id,
            epoch=sequence.epoch,
            position=sequence.position,
            num_pending=num_pending,
            nodes=frontier.nodes,
            masks=masks,
        )


def _num_pending(sequence: RoutedSequence) -> int:
    """Tokens of it that the verifier was not asked to compute yet; the last one may have to be asked for again."""
    return max(len(sequence.tokens) - sequence.num_sent, 1)


def _shared_out(room: int, reading: Sequence[RoutedSequence]) -> dict[SequenceId, int]:
    """Rows for prompts: of those that are as important the shortest first, so that a long one does not hold up those
    behind it. Half are the first one's, so that short ones do not hold it up for ever either."""
    rows: dict[SequenceId, int] = {}
    kept = min(_num_pending(reading[0]), room // 2) if reading else 0
    room -= kept
    for sequence in sorted(reading, key=lambda sequence: (-sequence.priority, _num_pending(sequence))):
        room += kept if sequence is reading[0] else 0
        rows[sequence.id] = min(_num_pending(sequence), room)
        room -= rows[sequence.id]
    return rows


def _num_steps(sequence: RoutedSequence) -> int:
    """Of its drafters until they have said all, with what they may have to read first."""
    reach = sequence.reach.num_steps
    return 1 + (sequence.max_draft if reach is None else min(reach + 1, sequence.max_draft))


def _best_end(sequence: RoutedSequence, ids: Sequence[int]) -> float:
    """The value of the most valuable of these nodes below which there is none of them; a drafter goes on there."""
    nodes = [sequence.drafting.tree[node] for node in ids]
    inner = {node.parent for node in nodes}
    return max((node.value for node in nodes if node.id not in inner), default=1.0)


def _together(due: Sequence[Due]) -> Due:
    """What so many sequences expect at about the same time as one: fewer moments to price."""
    return Due(
        in_s=max(each.in_s for each in due),
        tokens=sum(each.chance * each.tokens for each in due),
        num_rows=sum(each.num_rows for each in due),
        num_context=sum(each.num_context for each in due),
    )


def _shallow(sequence: RoutedSequence, least_value: float = 0.0) -> list[TreeNode]:
    """Nodes by value, of this at least, and none deeper than tokens are left to decide."""
    tree, root_position = sequence.drafting.tree, sequence.position - 1
    worth = itertools.takewhile(lambda node: node.value >= least_value, tree.by_value())
    return [node for node in worth if node.position - root_position < sequence.num_left]
