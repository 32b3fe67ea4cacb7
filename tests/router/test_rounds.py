"""Who gets the rows of a round where there are not enough for all that could be in it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.clock import VirtualClock
from contracts.types import DrafterId, DraftNode, SamplingParams, SequenceId, TenantId
from router.modes import ModeParts, mode_parts
from router.orders import RoundItem
from router.rounds import RoundMaker
from router.sequels import SequelMaker
from router.sequence import RoutedSequence
from speculation.cost import CostTable
from speculation.roster import Member, Roster
from tests.router.rig import Collected

DRAFTER, TENANT = DrafterId("a"), TenantId("t")
FIXED = mode_parts("pearl-budget")


class Scene:
    """Sequences of one drafter, and rounds that cost the same however many rows they have, or more for each from some
    number on."""

    def __init__(self, *, max_rows: int, num_free_rows: int = 512) -> None:
        self.clock, self.roster, cost = VirtualClock(), Roster(), CostTable()
        self.roster.join(Member(drafter=DRAFTER, has_logits=True, step_s=0.001))
        for rows in (1, 8, 16, 64, 512):
            cost.add(rows, rows * 100, 0.02 + 0.0016 * max(rows - num_free_rows, 0))
        self.rounds = RoundMaker(self.clock, self.roster, cost, max_rows=max_rows)
        self.sequences: list[RoutedSequence] = []

    def reads(self, num_tokens: int, *, parts: ModeParts = FIXED, priority: int = 0) -> RoutedSequence:
        tokens = [1] * num_tokens
        sequence = RoutedSequence(
            id=SequenceId(str(len(self.sequences))),
            tenant=TENANT,
            tokens=tokens,
            num_prompt=num_tokens,
            max_tokens=100,
            sampling=SamplingParams(),
            parts=parts,
            max_draft=8,
            drafting=self.roster.open(TENANT, tokens, temperature=0.0),
            output=Collected(100),
            priority=priority,
        )
        self.sequences.append(sequence)
        return sequence

    def decodes(
        self, num_nodes: int, *, parts: ModeParts = FIXED, priority: int = 0, confidence: float = 0.95
    ) -> RoutedSequence:
        """One that has so many draft nodes, all of them good where nothing else is said."""
        sequence = self.reads(10, parts=parts, priority=priority)
        sequence.num_sent, sequence.is_decoding = 10, True
        chain = [DraftNode(token=9, parent=at - 1, confidence=confidence, drafter=DRAFTER) for at in range(num_nodes)]
        sequence.drafting.take(DRAFTER, chain)
        return sequence

    def round(self) -> dict[SequenceId, RoundItem]:
        """The next one, and as if its verdicts had come."""
        planned = self.rounds.plan(sorted(self.sequences, key=lambda sequence: -sequence.priority))
        self.clock.advance(0.02)
        rows = 0
        for item, sequence in zip(planned.items, planned.sequences, strict=True):
            num_pending = len(sequence.tokens) - sequence.num_sent
            rows += len(item.nodes) + (item.num_pending or max(num_pending, 1))
            sequence.num_sent += num_pending if item.num_pending is None else item.num_pending
            sequence.is_decoding |= item.num_pending is None
            sequence.decided_s = self.clock.now_s() if item.num_pending is None else sequence.decided_s
            sequence.drafting.tree.abandon()
        assert rows <= self.rounds.max_rows
        return {item.sequence: item for item in planned.items}


def num_nodes(items: dict[SequenceId, RoundItem], sequences: Sequence[RoutedSequence]) -> list[int]:
    return [len(items[sequence.id].nodes) for sequence in sequences]


@pytest.mark.parametrize("parts", [FIXED, mode_parts("pearl")])
def test_drafts_get_the_rows_that_tokens_and_prompts_leave(parts: ModeParts) -> None:
    scene = Scene(max_rows=512)
    drafted = [scene.decodes(8, parts=parts) for _ in range(60)]
    plain, prompt = scene.decodes(0, parts=mode_parts("off"), priority=5), scene.reads(10, parts=parts)
    items = scene.round()
    assert len(items) == 62
    assert (items[plain.id].nodes, items[prompt.id].num_pending) == ((), None)
    assert sum(num_nodes(items, drafted)) == 512 - 60 - 1 - 10


def test_a_long_prompt_has_its_part_beside_drafts_and_no_more_than_it_needs() -> None:
    scene = Scene(max_rows=512)
    for _ in range(60):
        scene.decodes(8)
    prompt = scene.reads(130)
    assert scene.round()[prompt.id].num_pending == 128
    assert scene.round()[prompt.id].num_pending is None, "the two that are left"


@pytest.mark.parametrize("mode", ["pearl", "vanilla", "fleet"])
def test_beside_prompts_a_guess_must_be_worth_what_its_row_costs_there(mode: str) -> None:
    """Up to sixteen rows are as quick as one, so that any guess is worth its row; not so beside a prompt."""

    def checked(num_prompt: int) -> list[int]:
        scene = Scene(max_rows=512, num_free_rows=16)
        two = [scene.decodes(num, parts=mode_parts(mode), confidence=sure) for num, sure in ((8, 0.5), (4, 0.999))]
        if num_prompt:
            scene.reads(num_prompt, parts=mode_parts(mode))
        return num_nodes(scene.round(), two)

    assert checked(0) == [8, 4]
    few, whole = checked(100)
    assert 1 <= few <= 3, "a chain of halves"
    assert whole == 4


def test_fixed_drafts_share_what_room_there_is() -> None:
    scene = Scene(max_rows=64)
    many = [scene.decodes(8) for _ in range(10)]
    few = [scene.decodes(1) for _ in range(10)]
    items = scene.round()
    assert (num_nodes(items, many), num_nodes(items, few)) == ([3] * 6 + [4] * 4, [1] * 10)
    roomy = Scene(max_rows=110)
    mixed = [roomy.decodes(number) for number in (8, 0, 1, 8) * 5]
    assert num_nodes(roomy.round(), mixed) == [8, 0, 1, 8] * 5, "all there are"


def test_with_fewer_rows_than_sequences_all_have_their_turn() -> None:
    scene = Scene(max_rows=4)
    urgent = scene.decodes(2, priority=1)
    others = [scene.decodes(2) for _ in range(6)]
    rounds = [scene.round() for _ in range(4)]
    assert all(urgent.id in items for items in rounds)
    assert [sum(sequence.id in items for items in rounds) for sequence in others] == [2] * 6


def test_a_short_prompt_does_not_wait_for_a_long_one_nor_it_for_many_short_ones() -> None:
    scene = Scene(max_rows=64)
    long, short = scene.reads(1000), scene.reads(10)
    items = scene.round()
    assert (items[long.id].num_pending, items[short.id].num_pending) == (54, None)
    later = [scene.reads(60) for _ in range(10)]
    items = scene.round()
    assert items[long.id].num_pending == 31, "of 63, beside the one that decodes, half"
    assert [items[each.id].num_pending for each in later if each.id in items] == [32], "and the next first of them"
    urgent = scene.reads(200, priority=1)
    assert scene.round()[urgent.id].num_pending == 63


def test_prompts_alike_are_read_one_after_the_other() -> None:
    scene = Scene(max_rows=64)
    prompts = [scene.reads(100) for _ in range(3)]
    first, second = scene.round(), scene.round()
    assert [each.id in first for each in prompts] == [True, False, False]
    assert [each.id in second for each in prompts] == [True, True, False]


def test_those_whose_drafter_has_its_turn_are_waited_for_no_longer_than_since_it_was_asked() -> None:
    scene = Scene(max_rows=64)
    for asked_s in (0.1, 0.2):
        sequence = scene.decodes(0, parts=mode_parts("vanilla"))
        sequence.drafting.drafters, sequence.asked_s = (DRAFTER,), asked_s
    scene.clock.advance(0.4)
    planned = scene.rounds.plan(scene.sequences)
    assert not planned.items
    assert planned.wait_s == pytest.approx(0.2)


def test_no_sequel_is_for_somebody_who_is_gone() -> None:
    scene = Scene(max_rows=64)
    stays, goes = scene.decodes(2), scene.decodes(2)
    planned = scene.rounds.plan(scene.sequences)
    stays.is_in_round = goes.is_in_round = True
    sequels = SequelMaker(scene.clock, scene.roster, scene.rounds.cost, max_rows=64)
    assert sequels.is_possible(planned, [stays, goes])
    assert not sequels.is_possible(planned, [stays, scene.reads(5)]), "as many, and not the same"
