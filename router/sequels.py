"""Sequels of rounds: what the verifier may go on with, said while it still computes.

A sequel is for rounds whose every sequence decides a token and may go on right after it. What has to be decided anew,
because someone waits to come in, reads its prompt, awaits a drafter's turn, or needs masks, is asked for as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from contracts.clock import Clock
from contracts.types import SequenceId
from router.orders import LINK_S, RoundItem
from router.rounds import WORTHLESS, PlannedRound
from router.sequence import RoutedSequence
from speculation.cost import CostTable
from speculation.roster import Roster
from speculation.sequel import Sequel, SequelItem, SequelPart, nodes_below

__all__ = ["PreparedRound", "SequelMaker"]

_LEAD_S = 0.004  # before the end of a round: the later, the more drafts are there; too late, and it is for nothing
_FAN = 4  # nodes told of for each that may go: only some survive the verdict
_MARGIN = 1.02  # what is due may be late, while what is ready is there


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRound:
    """A sequel, and what its nodes are called in the trees of its sequences."""

    sequel: Sequel
    sequences: Mapping[SequenceId, RoutedSequence]
    ids: Mapping[SequenceId, tuple[int, ...]]

    def planned(self, parts: Sequence[SequelPart]) -> PlannedRound:
        """The round that the verifier has begun with these parts; its frontiers are in flight from now on. Sequences
        that have ended meanwhile are in it by name only, and its verdicts about them are nobody's."""
        items: list[RoundItem] = []
        sequences: list[RoutedSequence] = []
        items_of = {item.sequence: item for item in self.sequel.items}
        for part in parts:
            sequence, ids = self.sequences[part.sequence], self.ids[part.sequence]
            if (sequence.epoch, sequence.position) != (part.epoch, part.position) or sequence.is_in_round:
                continue
            frontier = sequence.drafting.tree.frontier_of(ids[index] for index in part.chosen)
            sequence.drafting.tree.start(frontier)
            nodes = nodes_below(items_of[part.sequence], part.chosen)
            items.append(RoundItem(sequence=part.sequence, epoch=part.epoch, position=part.position, nodes=nodes))
            sequences.append(sequence)
        return PlannedRound(items=tuple(items), sequences=tuple(sequences))


class SequelMaker:
    """See the module."""

    def __init__(self, clock: Clock, roster: Roster, cost: CostTable, *, max_rows: int) -> None:
        self.clock, self.roster, self.cost, self.max_rows = clock, roster, cost, max_rows

    def is_possible(self, planned: PlannedRound, running: Collection[RoutedSequence]) -> bool:
        """Whether all that run are in this round and could go on after it."""
        return (
            bool(self.cost and running)
            and len(planned.items) == len(running)
            and all(sequence.is_in_round for sequence in running)
            and all(
                item.num_pending is None and not item.masks and _may_go_on(sequence)
                for item, sequence in zip(planned.items, planned.sequences, strict=True)
            )
        )

    def due_s(self, planned: PlannedRound, sent_s: float) -> float:
        """When to make it: at once where no drafter can add to it, else shortly before the round is over."""
        if not any(sequence.drafting.drafters for sequence in planned.sequences):
            return sent_s
        num_rows, num_context = _size(planned)
        return sent_s + self.cost.cost_s(num_rows, num_context) - _LEAD_S

    def make(self, planned: PlannedRound, *, number: int, after: int, rate: float) -> PreparedRound:
        """From the trees as they are now; `rate` is tokens per second in the recent rounds."""
        items: list[SequelItem] = []
        ids: dict[SequenceId, tuple[int, ...]] = {}
        for item, sequence in zip(planned.items, planned.sequences, strict=True):
            max_nodes = sequence.max_draft if sequence.drafting.drafters else 0
            tree = sequence.drafting.tree
            best = tree.frontier(len(item.nodes) + _FAN * max_nodes if max_nodes else 0)
            tree.keep(best)
            ids[sequence.id] = best.ids
            items.append(
                SequelItem(
                    sequence=sequence.id,
                    epoch=sequence.epoch,
                    position=sequence.position,
                    nodes=best.nodes,
                    max_nodes=max_nodes,
                    num_left=sequence.num_left,
                )
            )
        sequel = Sequel(
            round=number,
            after=after,
            items=tuple(items),
            max_rows=self.max_rows,
            min_value=self._price_of_a_row(planned, rate),
            min_tokens=self._worth_going(planned.sequences),
        )
        return PreparedRound(sequel=sequel, sequences={each.id: each for each in planned.sequences}, ids=ids)

    # Inside

    def _price_of_a_row(self, planned: PlannedRound, rate: float) -> float:
        """What a node has to be worth: the tokens that the fleet would have decided in the time its row takes."""
        if not all(sequence.parts.is_budgeted for sequence in planned.sequences):
            return 0.0
        num_rows = len(planned.sequences)
        num_more = sum(sequence.max_draft for sequence in planned.sequences)
        context = sum(sequence.position for sequence in planned.sequences)
        added_s = self.cost.cost_s(num_rows + num_more, 2 * context) - self.cost.cost_s(num_rows, context)
        return min(rate * added_s / num_more, 1.0)

    def _worth_going(self, sequences: Sequence[RoutedSequence]) -> float:
        """Tokens expected of a sequence from which going on beats waiting for the first drafts after the verdict."""
        drafting = [(s, s.drafting.drafters[0]) for s in sequences if s.drafting.drafters]
        agreements = [s.drafting.scores.score(drafter) for s, drafter in drafting]
        if not any(agreement > WORTHLESS for agreement in agreements):
            return 0.0
        num, context = len(sequences), sum(sequence.position for sequence in sequences)
        step_s = max(self.roster.step_s(drafter) for _, drafter in drafting)
        now_s = self.cost.cost_s(num, context)
        tokens, best = float(num), num / now_s
        values = [1.0] * len(drafting)
        for ahead in range(1, max(sequence.max_draft for sequence, _ in drafting) + 1):
            values = [value * agreement for value, agreement in zip(values, agreements, strict=True)]
            tokens += sum(values)
            cost_s = self.cost.cost_s(num + ahead * len(drafting), (1 + ahead) * context)
            best = max(best, tokens / (LINK_S + ahead * step_s + cost_s) / _MARGIN)
        return best * now_s / num


def _may_go_on(sequence: RoutedSequence) -> bool:
    takes_turns = sequence.drafting.drafters and not sequence.runs_ahead
    return sequence.constraint is None and not takes_turns


def _size(planned: PlannedRound) -> tuple[int, int]:
    num_rows = sum(1 + len(item.nodes) for item in planned.items)
    return num_rows, sum((1 + len(item.nodes)) * item.position for item in planned.items)
