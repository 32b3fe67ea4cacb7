"""`up --router`: workers on a Ray that is there, for a router that is elsewhere; they outlive the command that placed
them, and the next one finds them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.__main__ import main
from cluster.home import running_fleet as running_record
from tests.cluster.running_fleet import (
    CHECKOUT,
    PATIENCE_S,
    RunningFleet,
    command,
    environment,
    running_fleet,
    session_of,
    until,
)
from tests.engine.checkpoints import write_checkpoint
from tests.recovery.fleet import until_quiet
from tests.recovery.scene import Request, check, expected_answers, requests, survive
from tests.service.fleet import engine_of
from tests.service.router_process import RouterProcess, router_process

pytestmark = pytest.mark.timeout(400)  # Ray may take its time where cores are busy; nothing here is about speed

RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
PLACE = {"place": "here"}
HOLD_RAY = f"""
import ray, sys
context = ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=80 * 2**20,
                   log_to_driver=False, labels={PLACE}, _temp_dir=sys.argv[1])
print(context.address_info["address"], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, kw_only=True)
class Around:
    """What is there before the command: a Ray, and a router with its file."""

    ray: str
    folder: Path
    session: int
    router: RouterProcess
    state: Path
    file: Path
    engine: dict[str, object]

    def write(self, **drafters: object) -> None:
        """The fleet's file with these drafters."""
        lookup = {"kind": "prompt_lookup", "labels": PLACE, "num_cpus": 0.5}
        fleet = {"engine": self.engine, "verifier": {"labels": PLACE}, "drafters": {"lookup": lookup, **drafters}}
        self.file.write_text(json.dumps(fleet))  # which is YAML

    @contextmanager
    def up(self) -> Iterator[RunningFleet]:
        where = ("--address", self.ray, "--router", self.router.address)
        with running_fleet(self.file, self.state, *where, **RAY) as fleet:
            fleet.said("READY")
            yield fleet

    def workers(self) -> set[int]:
        """Processes of actors that run."""
        return {pid for pid, name in session_of(self.session).items() if name.startswith(("ray::Ver", "ray::Dra"))}


@contextmanager
def held_ray(folder: Path) -> Iterator[tuple[str, int]]:
    """A Ray that belongs to nobody here: its address, and the session that its processes are in."""
    line = [sys.executable, "-c", HOLD_RAY, str(folder)]
    process = subprocess.Popen(
        line,
        cwd=CHECKOUT,
        env=environment(folder, SPECFLEET_LOG="json", **RAY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.communicate(timeout=PATIENCE_S)
            until(lambda: not session_of(process.pid), "all that Ray started has ended")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("outlive") / "tiny", "llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def answers(model: Path) -> tuple[Sequence[Request], Sequence[Sequence[int]]]:
    wanted = requests()
    return wanted, expected_answers(engine_of(model), wanted)


@pytest.fixture
def around(model: Path, tmp_path: Path) -> Iterator[tuple[Around, asyncio.Runner]]:
    engine = engine_of(model)
    # With a short name, because the path of a socket may have a hundred characters.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray,
        held_ray(folder := Path(ray)) as (address, session),
        asyncio.Runner() as loop,
    ):
        entered = router_process(tmp_path, engine, {"url": "memory"})
        router = loop.run(entered.__aenter__())
        made = Around(
            ray=address,
            folder=folder,
            session=session,
            router=router,
            state=tmp_path / "state",
            file=tmp_path / "fleet.yaml",
            engine=engine.model_dump(mode="json", exclude_defaults=True),
        )
        try:
            yield made, loop
        finally:
            loop.run(entered.__aexit__(None, None, None))


def test_workers_outlive_their_supervisor_and_the_next_one_finds_them(
    around: tuple[Around, asyncio.Runner], answers: tuple[Sequence[Request], Sequence[Sequence[int]]]
) -> None:
    of, loop = around
    twin = {"kind": "model", "engine": of.engine, "labels": PLACE, "replicas": 2, "num_cpus": 0.5}
    guest = {"kind": "model", "engine": of.engine, "with_target": True, "num_cpus": 0.5}
    of.write(twin=twin, guest=guest)
    names = ("verifier", "lookup", "twin-0", "twin-1", "guest")
    with of.up() as first:
        pids = {name: first.pid_of(name) for name in names}
        assert pids["guest"] == pids["verifier"]

        async def lose_the_supervisor_and_then_a_worker() -> None:
            left = Path(running_record(of.state / "specfleet").control).parent
            first.process.kill()
            await asyncio.to_thread(first.ended)
            shutil.rmtree(left)  # which who is killed cannot clear up
            os.kill(pids["twin-1"], signal.SIGKILL)  # with nobody there but Ray

        wanted, expected = answers
        outcome = loop.run(
            survive(of.router.address, lose_the_supervisor_and_then_a_worker, wanted, expected, "no-supervisor")
        )
        check(outcome)
        assert {pids["verifier"], pids["lookup"], pids["twin-0"]} <= of.workers()
        until(lambda: len(of.workers()) == 4, "Ray has started the other twin again")

    spare = {"kind": "recycling", "labels": PLACE, "num_cpus": 0.5}
    of.write(twin={**twin, "replicas": 1}, spare=spare, guest=guest)
    with of.up() as second:
        for name in ("verifier", "lookup", "guest"):
            assert second.pid_of(name) == pids[name]
        for name in ("twin-0", "twin-1"):  # which are none of the file's any more: there is one, and called twin
            second.said(f"{name} is removed")
        assert second.pid_of("twin") not in pids.values()
        second.pid_of("spare")
        until(lambda: len(of.workers()) == 4, "there are as many as the file says")
        loop.run(until_quiet(of.router.address, num_drafters=4))
        big = {"kind": "recycling", "labels": PLACE, "num_cpus": 7.5}
        of.write(twin={**twin, "replicas": 1}, spare=spare, big=big, guest=guest)
        adding = subprocess.Popen(
            [sys.executable, "-m", "cluster", "add-drafter", "big", "-c", str(of.file)],
            cwd=CHECKOUT,
            env=environment(of.state),
            stderr=subprocess.DEVNULL,
        )
        second.said("big waits for a place")
    assert adding.wait(PATIENCE_S) == 1

    assert len(of.workers()) == 4, "a supervisor that is told to end leaves them"
    changed = {"twin": {**twin, "replicas": 1, "capacity": 7}, "guest": {**guest, "capacity": 7}}
    of.write(**changed, big={**big, "num_cpus": 0.5})
    with of.up() as third:
        for name in ("twin", "guest"):
            third.said(f"{name} runs with other settings than the file's, and is replaced")
        third.said("spare is removed")
        third.said("big was found and says nothing; it is placed anew")
        assert third.pid_of("verifier") == third.pid_of("guest") == pids["verifier"]
        assert third.pid_of("twin") != second.pid_of("twin")
        more = command(of.state, "add-drafter", "lookup-7", "-c", str(of.file))
        assert (more.returncode, more.stdout) == (0, "lookup-7 has joined\n"), more.stderr
        check_a_guest_comes_and_goes(of, third)
        down = command(of.state, "down")
        assert (down.returncode, third.ended()) == (0, 0), down.stderr
        until(lambda: not of.workers(), "no worker is left")
    check_logs(of.folder)


def check_a_guest_comes_and_goes(of: Around, fleet: RunningFleet) -> None:
    """By itself when it is told to, and with the target's process when that is lost."""
    num_lines, before = len(fleet.lines), fleet.pid_of("verifier")
    for order, said in (("remove-drafter", "guest is removed\n"), ("add-drafter", "guest has joined\n")):
        file = ("-c", str(of.file)) if order == "add-drafter" else ()
        done = command(of.state, order, "guest", *file)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert fleet.pid_of("guest", since=num_lines) == before

    num_lines = len(fleet.lines)
    os.kill(before, signal.SIGKILL)
    fleet.said("guest lost its process", since=num_lines)
    after = fleet.pid_of("verifier", since=num_lines)
    assert fleet.pid_of("guest", since=num_lines) == after != before


def check_logs(folder: Path) -> None:
    """What actors log is as Ray's environment says, and in Ray's files."""
    said = "".join(log.read_text() for log in folder.rglob("worker-*.err"))
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {"verifier", "drafter"}
    assert any(line["message"].startswith("twin-0 joined router") for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--router", "10.0.0.1:50051"), "--router is given without --address; workers that outlive this command"),
        (("--router", "somewhere", "--address", "127.0.0.1:1"), "--router is 'somewhere'; it must be host:port"),
    ],
)
def test_a_router_that_cannot_be_one_is_refused(
    options: Sequence[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "-c", str(tmp_path / "fleet.yaml"), *options]) == 2
    assert said in capsys.readouterr().err
