"""Whether a second drafter pays is found by trying, together with the manner, and only where the load leaves room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from contracts.clock import VirtualClock
from contracts.types import SamplingParams, SequenceId
from router.manners import Manners
from router.modes import MODES
from router.rounds import PlannedRound
from router.sequence import RoutedSequence
from speculation.cost import CostTable
from speculation.load import Cooperation
from speculation.manner import DraftingWay, Manner
from speculation.roster import Roster
from tests.router.rig import TENANT, Collected

ROUND_S = 0.02


class World:
    """One sequence in a fleet in which every round brings three tokens and takes as long as `took_s` says."""

    def __init__(
        self,
        took_s: Callable[[DraftingWay], float],
        *,
        mode: str = "fleet",
        num_drafters: int = 3,
        is_priced: bool = True,
    ) -> None:
        self.clock, self.took_s = VirtualClock(), took_s
        probed = CostTable()
        for num_rows in (1, 8):
            probed.add(num_rows, num_rows * 100, ROUND_S)
        self.cooperation = Cooperation()
        self.cooperation.num_drafters = num_drafters
        self.manners = Manners(self.clock, probed, self.cooperation, is_priced=is_priced)
        self.sequence = RoutedSequence(
            id=SequenceId("1"),
            tenant=TENANT,
            tokens=[1] * 100,
            num_prompt=100,
            max_tokens=100,
            sampling=SamplingParams(),
            parts=MODES[mode],
            max_draft=8,
            drafting=Roster().open(TENANT, [1] * 100, temperature=0.0),
            output=Collected(100),
            is_decoding=True,
        )

    def run(self, num_rounds: int) -> Counter[DraftingWay]:
        used: Counter[DraftingWay] = Counter()
        for _ in range(num_rounds):
            self.manners.say([self.sequence])
            way = DraftingWay(self.sequence.manner, self.sequence.most_drafters)
            used[way] += 1
            self.clock.advance(self.took_s(way))
            self.manners.round_ended(PlannedRound(), [self.sequence], [self.sequence], num_tokens=3, num_rows=0)
        return used


def fast(*ways: DraftingWay) -> Callable[[DraftingWay], float]:
    """All others take twice as long as these."""
    return lambda way: (1.0 if way in ways else 2.0) * ROUND_S


@pytest.mark.parametrize("manner", [Manner.AHEAD, Manner.IN_TURN])
@pytest.mark.parametrize("most_drafters", [1, 3])
def test_the_way_that_pays_is_kept(manner: Manner, most_drafters: int) -> None:
    world = World(fast(DraftingWay(manner, most_drafters)))
    world.run(600)
    used = world.run(600)
    assert used[DraftingWay(manner, most_drafters)] > 0.9 * used.total(), used


@pytest.mark.parametrize(("mode", "num_drafters"), [("fleet", 1), ("vanilla", 3), ("pearl", 3)])
def test_without_room_for_a_second_drafter_none_is_tried(mode: str, num_drafters: int) -> None:
    used = World(fast(), mode=mode, num_drafters=num_drafters).run(600)
    assert {way.most_drafters for way in used} == {1}


def test_load_takes_the_second_drafter_away_at_once_and_it_is_tried_again_when_there_is_room() -> None:
    world = World(fast(DraftingWay(Manner.IN_TURN, 2)), num_drafters=2)
    world.run(300)
    world.cooperation.num_drafters = 1
    assert {way.most_drafters for way in world.run(50)} == {1}
    world.cooperation.num_drafters = 3
    assert DraftingWay(Manner.IN_TURN, 2) not in world.run(200)
    world.cooperation.num_drafters = 2
    world.run(100)
    assert world.run(100)[DraftingWay(Manner.IN_TURN, 2)] > 80


def test_where_drafting_is_not_priced_all_draft_together() -> None:
    assert set(World(fast(), is_priced=False).run(50)) == {DraftingWay(Manner.AHEAD, 3)}
