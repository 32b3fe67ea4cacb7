"""Whether a second drafter pays is found by trying, for each manner apart, and only where the load leaves room."""

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
from speculation.manner import Company, Manner
from speculation.roster import Roster
from tests.router.rig import TENANT, Collected

ROUND_S = 0.02

Way = tuple[Manner, Company]


class World:
    """One sequence in a fleet in which every round brings three tokens and takes as long as `took_s` says."""

    def __init__(
        self, took_s: Callable[[Way], float], *, mode: str = "fleet", num_drafters: int = 3, is_priced: bool = True
    ) -> None:
        self.clock, self.took_s = VirtualClock(), took_s
        probed = CostTable()
        for num_rows in (1, 8):
            probed.add(num_rows, num_rows * 100, ROUND_S)
        cooperation = Cooperation()
        cooperation.num_drafters = num_drafters
        self.manners = Manners(self.clock, probed, cooperation, is_priced=is_priced)
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

    def run(self, num_rounds: int) -> Counter[Way]:
        used: Counter[Way] = Counter()
        for _ in range(num_rounds):
            self.manners.say([self.sequence])
            way = self.sequence.manner, self.sequence.company
            used[way] += 1
            self.clock.advance(self.took_s(way))
            self.manners.round_ended(PlannedRound(), [self.sequence], [self.sequence], num_tokens=3, num_rows=0)
        return used


def slow(*ways: Way) -> Callable[[Way], float]:
    """These and plain decoding take twice as long as the others."""
    return lambda way: (2.0 if way in ways or way[0] is Manner.PLAIN else 1.0) * ROUND_S


@pytest.mark.parametrize("manner", [Manner.AHEAD, Manner.IN_TURN])
@pytest.mark.parametrize("company", Company)
def test_the_company_that_pays_is_kept_for_each_manner(manner: Manner, company: Company) -> None:
    others = [(m, c) for m in (Manner.AHEAD, Manner.IN_TURN) for c in Company if (m, c) != (manner, company)]
    world = World(slow(*others))
    world.run(600)
    used = world.run(600)
    assert used[manner, company] > 0.9 * used.total(), used


@pytest.mark.parametrize(("mode", "num_drafters"), [("fleet", 1), ("vanilla", 3), ("pearl", 3)])
def test_without_room_for_a_second_drafter_none_is_tried(mode: str, num_drafters: int) -> None:
    used = World(slow(), mode=mode, num_drafters=num_drafters).run(600)
    assert {company for _, company in used} == {Company.ALONE}


def test_where_drafting_is_not_priced_all_draft_together() -> None:
    assert set(World(slow((Manner.AHEAD, Company.TOGETHER)), is_priced=False).run(50)) == {
        (Manner.AHEAD, Company.TOGETHER)
    }
