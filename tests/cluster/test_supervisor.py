"""What the supervisor does about drafters in the verifier's process, with a made-up Ray that says what a test wants."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from cluster.control import Command
from cluster.plan import VERIFIER, Dial, Node, Placement, placements
from cluster.ray_api import Cluster, Sighting
from cluster.supervisor import Supervisor
from contracts.clock import VirtualClock
from contracts.config import DrafterConfig, FleetConfig
from contracts.errors import InvalidArgument, SpecfleetError, Unavailable

GUEST = {"kind": "model", "with_target": True, "num_cpus": 0.5, "engine": {"model": "m", "device": "cpu"}}


class MadeUpActor:
    is_found = False

    def __init__(self, name: str) -> None:
        self.name, self.told = name, list[str]()
        self.next: list[Sighting] = []

    def read(self) -> Sighting | None:
        return self.next.pop(0)

    def leave(self) -> None:
        self.told.append("leave")

    def restart(self) -> None:
        self.told.append("restart")

    def remove(self) -> None:
        self.told.append("remove")


class MadeUpCluster:
    """Places whatever is to be placed; news is what was put into an actor's `next`."""

    def __init__(self) -> None:
        self.placed: list[MadeUpActor] = []

    def place_verifier(self, *_: object) -> MadeUpActor:
        return self._placed(VERIFIER)

    def place_drafter(self, placement: Any, *_: object) -> MadeUpActor:
        return self._placed(placement.name)

    def nodes(self) -> list[Node]:
        return [Node(name="here", amounts={}, labels={})]

    def news(self, actors: Sequence[MadeUpActor], *, timeout_s: float) -> list[MadeUpActor]:
        return [actor for actor in actors if actor.next]

    def named(self, name: str) -> MadeUpActor:
        """The newest of this name."""
        return next(actor for actor in reversed(self.placed) if actor.name == name)

    def _placed(self, name: str) -> MadeUpActor:
        self.placed.append(MadeUpActor(name))
        return self.placed[-1]


class Scene:
    def __init__(self) -> None:
        self.cluster, self.said, self.clock = MadeUpCluster(), list[str](), VirtualClock()
        self.supervisor = Supervisor(
            cluster=cast(Cluster, self.cluster),
            children=[],
            dial=Dial(router="127.0.0.1:1"),
            is_local=True,
            say=self.said.append,
            clock=self.clock,
        )
        config = FleetConfig.model_validate({"engine": {"model": "target"}, "drafters": {"near": GUEST}})
        verifier, near = placements(config, has_gpus=False, is_local=True)
        self.supervisor.start_verifier(verifier, config.engine, config.verifier)
        self.supervisor.start_drafter(near, config.drafters["near"])

    def see(self, **phases: str) -> None:
        """All of this is news at once."""
        for name, phase in phases.items():
            self.cluster.named(name).next.append(Sighting(phase=phase, pid=7))
        self.supervisor.tick(0.0)

    def order(self, do: str, name: str, **config: object) -> Future[str]:
        command = Command(do=do, name=name, config=config, answer=Future())
        commands = queue.SimpleQueue[Command]()
        commands.put(command)
        self.supervisor.carry_out(commands)
        return command.answer


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_all_join_one_by_one(scene: Scene) -> None:
    scene.see(verifier="joined")
    assert scene.supervisor.awaited == ["near (placing)"]
    scene.see(near="refused")
    assert scene.supervisor.is_ready
    assert list(scene.supervisor.refused) == ["near"]


def test_with_the_verifier_its_guests_have_left_too(scene: Scene) -> None:
    """Also where all of it is news at once, in whatever order."""
    scene.see(verifier="joined", near="joined")
    scene.see(verifier="left", near="left")
    assert scene.supervisor.is_empty
    assert scene.cluster.named(VERIFIER).told == ["remove"]
    with pytest.raises(Unavailable, match="near is with_target, and the verifier has left; start the fleet again"):
        scene.order("add-drafter", "near", **GUEST).result(0)


def test_a_guest_comes_back_to_the_place_that_was_booked_for_it_and_no_larger(scene: Scene) -> None:
    scene.see(verifier="joined", near="joined")
    removal = scene.order("remove-drafter", "near")
    assert scene.cluster.named("near").told == ["leave"]
    scene.see(near="left")
    assert removal.result(0) == "near is removed"
    for name, config in (("near", {**GUEST, "num_cpus": 2.0}), ("other", GUEST)):
        with pytest.raises(
            InvalidArgument, match=rf"{name} is with_target, and the verifier that runs has booked no such"
        ):
            scene.order("add-drafter", name, **config).result(0)
    back = scene.order("add-drafter", "near", **GUEST)
    scene.see(near="joined")
    assert back.result(0) == "near has joined"


def test_a_guest_whose_process_is_lost_is_not_given_up(scene: Scene) -> None:
    scene.see(verifier="joined", near="joined")
    scene.see(verifier="lost", near="lost")
    assert scene.supervisor.awaited == ["verifier (lost)", "near (lost)"]
    scene.see(verifier="joined", near="joined")
    assert scene.supervisor.is_ready
    assert not isinstance(scene.order("down", "").result(0), SpecfleetError)


def test_what_fails_after_long_loading_has_not_lived_well(scene: Scene) -> None:
    for delay_s in (0.5, 1.0, 2.0):
        scene.see(verifier="loading")
        scene.clock.advance(100.0)
        scene.see(verifier="failed")
        assert scene.said[-1].endswith(f"starts again in {delay_s} s")
        scene.clock.advance(delay_s)
        scene.see()
    scene.see(verifier="loading")
    scene.see(verifier="serving")
    scene.clock.advance(30.0)
    scene.see(verifier="joined")
    scene.clock.advance(30.0)
    scene.see(verifier="failed")
    assert scene.said[-1].endswith("starts again in 0.5 s")


@pytest.mark.parametrize(("amounts", "labels"), [({"CPU": 5e-5}, {}), ({"CPU": 1.0}, {"my zone": "x"})])
def test_what_ray_refuses_of_a_place_is_refused(amounts: dict[str, float], labels: dict[str, str]) -> None:
    """And is no end of the fleet that it was ordered of."""
    cluster = Cluster.__new__(Cluster)  # of no Ray, for it refuses before it asks any
    cluster._outlives = False
    placement, config = Placement(name="far", amounts=amounts, labels=labels), DrafterConfig(kind="stand")
    with pytest.raises(InvalidArgument, match="Ray refuses the place of far: "):
        cluster.place_drafter(placement, config, Dial(router="127.0.0.1:1"))
