"""Ray is lost, and in the midst of requests: it carries no tokens, and every request ends as if it had not been."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cluster.ray_machines import ENVIRONMENT, PLACE, RayMachines, Told
from tests.cluster.running_fleet import RunningFleet, running_fleet
from tests.engine.checkpoints import write_checkpoint
from tests.recovery.fleet import until_quiet
from tests.recovery.scene import Outcome, Request, check, expected_answers, requests, survive, table
from tests.service.fleet import engine_of
from tests.service.machines import network

pytestmark = pytest.mark.timeout(400)  # Ray may take its time where cores are busy; nothing here is about speed

OUTCOMES: dict[str, tuple[str, Outcome]] = {}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ray_faults") / "tiny", "llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def answers(model: Path) -> tuple[Sequence[Request], Sequence[Sequence[int]]]:
    wanted = requests()
    return wanted, expected_answers(engine_of(model), wanted)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print("\n" + table(OUTCOMES))


def write_fleet(
    folder: Path, model: Path, *, place: Mapping[str, object], router: Mapping[str, object], **more: object
) -> Path:
    """A fleet with one drafter that has a model and this place, and one that has neither. Both draft whatever it costs:
    with a target as small as this it would not pay for long.
    """
    engine = engine_of(model).model_dump(mode="json", exclude_defaults=True)
    twin = {"kind": "model", "engine": engine, **place}
    settings = {
        "engine": engine,
        "drafters": {"twin": twin, "lookup": {"kind": "prompt_lookup"}},
        "router": {"drafting": "always", **router},
        **more,
    }
    file = folder / "fleet.yaml"
    file.write_text(json.dumps(settings))  # which is YAML
    return file


def test_a_fleet_whose_own_ray_is_lost_goes_on_on_another(
    model: Path, answers: tuple[Sequence[Request], Sequence[Sequence[int]]], tmp_path: Path
) -> None:
    """One of its drafters lives in the verifier's process."""
    file = write_fleet(tmp_path, model, place={"with_target": True}, router={"grpc_port": 0, "http_port": 0})
    with running_fleet(file, tmp_path / "state") as fleet:
        fleet.said("READY")
        for process, part in (("gcs_server", "head"), ("raylet", "raylet")):
            num_lines = len(fleet.lines)
            outcome = asyncio.run(lose(process, fleet, answers))
            OUTCOMES[f"the {part} of a Ray of the fleet's own lost"] = f"SIGKILL of {process}", outcome
            check(outcome)
            fleet.said(f"Ray's {part} is lost; a new Ray is started, and all workers on it", since=num_lines)
            daemons = [name.split()[0].rpartition("/")[2] for name in fleet.processes().values()]
            left = {
                of: sum(each.startswith(of) for each in daemons) for of in ("gcs_server", "raylet", "ray::Verifier")
            }
            assert set(left.values()) == {1}, f"of the old ones none is left: {left}"


async def lose(
    process: str, fleet: RunningFleet, answers: tuple[Sequence[Request], Sequence[Sequence[int]]]
) -> Outcome:
    """What the loss of one of Ray's processes does; it recovers when all workers have joined again."""
    num_lines, whole_s = len(fleet.lines), list[float]()
    (victim,) = [pid for pid, name in fleet.processes().items() if name.split()[0].endswith(f"/{process}")]

    async def harm() -> None:
        began_s = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        for worker in ("verifier", "twin", "lookup"):
            await asyncio.to_thread(fleet.pid_of, worker, since=num_lines)
        whole_s.append(time.monotonic() - began_s)

    outcome = await survive(fleet.address, harm, *answers, f"without-{process}")
    await until_quiet(fleet.address, num_drafters=2)
    return replace(outcome, recovery_s=whole_s[0])


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """A fleet on two machines, and the program that keeps the other machine in the cluster."""

    machines: RayMachines
    loop: asyncio.Runner
    file: Path
    fleet: Told
    far: Told

    def survive(
        self, name: str, harm: Callable[[], Awaitable[float]], heal: Callable[[], Awaitable[float]] | None = None
    ) -> Outcome:
        """Harm and healing say how long they took until all was well."""
        took_s = list[float]()

        def timed(what: Callable[[], Awaitable[float]]) -> Callable[[], Awaitable[None]]:
            async def do() -> None:
                took_s.append(await what())

            return do

        outcome = self.loop.run(self.machines.survive(name, timed(harm), None if heal is None else timed(heal)))
        return replace(outcome, recovery_s=sum(took_s))


@pytest.fixture(scope="module")
def cluster(
    model: Path, answers: tuple[Sequence[Request], Sequence[Sequence[int]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnCluster]:
    """Ends with all machines."""
    folder = tmp_path_factory.mktemp("machines")
    expected = folder / "expected.json"
    expected.write_text(json.dumps(answers[1]))
    with pytest.MonkeyPatch.context() as patch, network() as net, asyncio.Runner() as loop:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        machines = RayMachines(net, folder, expected)
        router = {"host": machines.head.address, "grpc_port": 50051, "http_port": 8000}
        file = write_fleet(folder, model, place={"labels": PLACE}, router=router, security={"insecure": True})

        async def start() -> tuple[Told, Told]:
            await machines.start_head()
            far = await machines.start_far()
            return await machines.start_fleet(file, "--address", machines.address), far

        try:
            fleet, far = loop.run(start())
            yield OnCluster(machines=machines, loop=loop, file=file, fleet=fleet, far=far)
        finally:
            loop.run(machines.close())


def test_a_node_that_is_cut_off_takes_its_drafter_alone_which_comes_back_with_it(cluster: OnCluster) -> None:
    machines, fleet = cluster.machines, cluster.fleet

    async def cut_and_heal() -> float:
        num_lines = len(fleet.lines)
        machines.far.pull_cable()
        await fleet.said("twin (lost its process|failed)", since=num_lines)
        machines.far.plug_cable()
        healed_s = time.monotonic()
        await cluster.far.ended()
        await machines.start_far()
        await fleet.said("twin has joined", since=num_lines)
        return time.monotonic() - healed_s

    outcome = cluster.survive("cut-off", cut_and_heal)
    OUTCOMES["a node cut off until Ray takes it for dead, and healed"] = "its cable pulled and plugged", outcome
    check(outcome)


def test_a_cluster_whose_head_comes_back_goes_on(cluster: OnCluster) -> None:
    fleet = cluster.fleet

    async def lose_and_bring_back() -> float:
        num_lines, began_s = len(fleet.lines), time.monotonic()
        start_again = cluster.machines.kill_gcs()
        await fleet.said("Ray's head at .* is lost; what runs goes on", since=num_lines)
        start_again()
        await fleet.said("Ray's head is back", since=num_lines)
        back_s = time.monotonic() - began_s
        verifier = int((await fleet.said(r"verifier has joined, as process (\d+)"))[1])
        os.kill(verifier, signal.SIGKILL)
        await fleet.said("verifier has joined", since=num_lines)
        return back_s

    outcome = cluster.survive("head-comes-back", lose_and_bring_back)
    OUTCOMES["the head of a cluster lost, back with its memory"] = "SIGKILL of gcs_server", outcome
    check(outcome)


def test_a_fleet_whose_cluster_is_gone_ends_in_order_and_the_next_one_goes_on(cluster: OnCluster) -> None:
    fleet = cluster.fleet

    async def lose_for_good() -> float:
        *_, verifier = re.findall(r"verifier has joined, as process (\d+)", fleet.text)
        os.kill(int(verifier), signal.SIGSTOP)  # or all requests would be over before the fleet is
        num_lines, began_s = len(fleet.lines), time.monotonic()
        cluster.machines.kill_gcs()
        await fleet.said("Ray's head at .* is lost; what runs goes on, what dies stays dead", since=num_lines)
        os.kill(int(verifier), signal.SIGKILL)
        assert await fleet.ended() == 1
        assert "was not back within" in fleet.text
        return time.monotonic() - began_s

    async def start_the_next() -> float:
        began_s = time.monotonic()
        await cluster.machines.start_fleet(cluster.file)
        return time.monotonic() - began_s

    outcome = cluster.survive("head-stays-away", lose_for_good, start_the_next)
    OUTCOMES["the head of a cluster lost for good, and the verifier; `up` again"] = "SIGKILL of both", outcome
    assert outcome.num_in_flight_after, "the next fleet had something to go on with"
    check(outcome)
