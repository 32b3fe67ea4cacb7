"""Probes of drafters: in nobody's way, one at a time, and gone with the drafter."""

from __future__ import annotations

import asyncio

from contracts.clock import VirtualClock
from contracts.types import DrafterId, SamplingParams, SequenceId, TenantId
from router.drafter_probe import DrafterProbes
from router.modes import mode_parts
from router.orders import DrafterOrders, VerifierOrders
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.sequence import RoutedSequence
from tests.router.offers import drafter_offer, verifier_offer
from tests.router.rig import Collected

TENANT = TenantId("t")
DRAFTERS = [DrafterId(name) for name in "abc"]


class Deaf:
    def send(self, orders: VerifierOrders | DrafterOrders) -> None:
        pass


class Scene:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.scheduler = Scheduler(self.clock, max_running=2)
        self.probes = DrafterProbes(self.scheduler)
        for drafter in DRAFTERS:
            self.joins(drafter)

    def joins(self, drafter: DrafterId) -> None:
        self.scheduler.drafter_joined(drafter_offer(drafter), Deaf())
        self.probes.begin(drafter, lambda text: [1, 2, 3], max_context=512)

    def leaves(self, drafter: DrafterId) -> None:
        self.scheduler.drafter_left(drafter)
        self.probes.forget(drafter)

    def asks(self, number: int) -> None:
        self.scheduler.submit(
            RoutedSequence(
                id=SequenceId(str(number)),
                tenant=TENANT,
                tokens=[1, 2],
                num_prompt=2,
                max_tokens=5,
                sampling=SamplingParams(),
                parts=mode_parts("off"),
                max_draft=8,
                drafting=self.scheduler.roster.open(TENANT, [1, 2], temperature=0.0),
                output=Collected(5),
            )
        )

    @property
    def probed(self) -> list[DrafterId]:
        """Whose probes run."""
        self.scheduler.tick()
        running = self.scheduler.running.values()
        return [drafter for each in running if each.tenant != TENANT for drafter in each.allowed_drafters or ()]

    def ends(self) -> None:
        """The probe that runs."""
        (probe,) = (each for each in self.scheduler.running.values() if each.tenant != TENANT)
        probe.figures.num_draft_tokens = probe.figures.num_accepted_tokens = 4
        assert probe.output.take([1] * 32, [None] * 32, ())
        self.scheduler.cancel(probe.id)
        self.probes.go_on()


def test_one_at_a_time_and_beside_no_client() -> None:
    scene = Scene()
    assert (scene.probed, len(scene.scheduler.waiting)) == ([], 0), "without a target nobody is probed"
    scene.scheduler.verifier_joined(verifier_offer(), Deaf())
    for number in range(3):
        scene.asks(number)
    scene.probes.go_on()
    assert (scene.probed, len(scene.scheduler.waiting)) == ([], 1)
    scene.scheduler.cancel(SequenceId("0"))
    scene.probes.go_on()
    assert scene.probed == [], "the third client has the place"
    scene.scheduler.cancel(SequenceId("1"))
    scene.probes.go_on()
    assert scene.probed == [], "it would take every other round from the third client"
    scene.scheduler.cancel(SequenceId("2"))
    for drafter in DRAFTERS:
        scene.probes.go_on()
        assert scene.probed == [drafter]
        scene.ends()
    assert scene.probed == []
    assert set(scene.probes.acceptance) == set(DRAFTERS)


def test_clients_without_a_gap_do_not_keep_it_out_for_ever() -> None:
    scene = Scene()
    scene.scheduler.verifier_joined(verifier_offer(), Deaf())
    for number in range(3):
        scene.asks(number)
    scene.clock.advance(61.0)
    scene.probes.go_on()
    assert (scene.probed, len(scene.scheduler.waiting)) == ([], 1), "but one that waits goes first"
    scene.scheduler.cancel(SequenceId("0"))
    assert scene.probed == []
    scene.scheduler.cancel(SequenceId("1"))
    scene.probes.go_on()
    assert scene.probed == DRAFTERS[:1]


def test_it_begins_when_the_last_client_hangs_up() -> None:
    """No round ends then."""
    scene = Scene()
    scene.asks(0)

    async def act() -> None:
        loop = SchedulingLoop(scene.scheduler)
        loop.on_idle = scene.probes.go_on
        scene.scheduler.verifier_joined(verifier_offer(), Deaf())
        assert scene.probed == []
        scene.scheduler.cancel(SequenceId("0"))
        loop.poke()
        await asyncio.sleep(0.1)
        assert list(scene.scheduler.running), "it was let in by a tick of the loop's own"
        assert scene.probed == DRAFTERS[:1]

    scene.clock.run(act())


def test_with_a_drafter_its_probe_goes_too() -> None:
    scene = Scene()
    scene.scheduler.verifier_joined(verifier_offer(), Deaf())
    scene.probes.go_on()
    scene.leaves(DRAFTERS[0])
    assert scene.probed == [DRAFTERS[1]]
    scene.leaves(DRAFTERS[2])
    scene.ends()
    assert scene.probed == []
    assert scene.probes.acceptance == {DRAFTERS[1]: 1.0}
    for _ in range(5):
        scene.leaves(DRAFTERS[1])
        scene.joins(DRAFTERS[1])
        assert len(scene.scheduler.waiting) <= 1
    assert scene.probed == [DRAFTERS[1]]
    assert not scene.probes.acceptance
