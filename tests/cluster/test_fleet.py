"""One fleet on a Ray of its own, from its start to its end, through everything that can happen between."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.descendants import descendants, kill
from specfleet.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc, types_pb2
from tests.cluster.running_fleet import PATIENCE_S, RunningFleet, command, running_fleet, until, write_fleet
from tests.monitoring.on_ray import check_on_ray, metrics_port
from tests.monitoring.prometheus import program

NUM_LONG = 300
"""Tokens of an answer that takes long enough to lose a process in its midst."""

pytestmark = pytest.mark.timeout(400)  # Ray may take its time where cores are busy; nothing here is about speed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fleet")
    write_fleet(made)
    return made


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[RunningFleet]:
    with running_fleet(folder / "fleet.yaml", folder / "state", RAY_metrics_report_interval_ms="1000") as started:
        started.said("READY")
        yield started


def generate(stub: inference_pb2_grpc.InferenceStub, num_tokens: int) -> Iterator[int]:
    """An answer's tokens as they come."""
    request = inference_pb2.GenerateRequest(
        prompt="the target alone decides every token",
        sampling=types_pb2.Sampling(temperature=0.8, seed=5),
        stop=inference_pb2.Stop(max_tokens=num_tokens, ignore_eos=True),
    )
    for response in stub.Generate(request, timeout=PATIENCE_S):
        if response.HasField("tokens"):
            yield from (token.token_id for token in response.tokens.tokens)


def status(fleet: RunningFleet) -> admin_pb2.StatusResponse:
    with fleet.channel() as channel:
        said: admin_pb2.StatusResponse = admin_pb2_grpc.AdminStub(channel).Status(
            admin_pb2.StatusRequest(), timeout=PATIENCE_S
        )
        return said


def drafters(fleet: RunningFleet) -> set[str]:
    return {drafter.name for drafter in status(fleet).drafters}


def test_it_survives_the_loss_of_any_worker(fleet: RunningFleet) -> None:
    assert drafters(fleet) == {"small", "lookup"}
    with fleet.channel() as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        undisturbed = list(generate(stub, NUM_LONG))
        assert len(undisturbed) == NUM_LONG

        num_lines, disturbed = len(fleet.lines), list[int]()
        for token in generate(stub, NUM_LONG):
            disturbed.append(token)
            if len(disturbed) == 10:
                assert status(fleet).num_running == 1
                os.kill(fleet.pid_of("small"), signal.SIGKILL)
                os.kill(fleet.pid_of("verifier"), signal.SIGKILL)
        assert disturbed == undisturbed
        fleet.said("verifier lost its process", since=num_lines)
        fleet.said("small lost its process", since=num_lines)
        assert fleet.pid_of("verifier", since=num_lines) != fleet.pid_of("verifier")
        assert fleet.pid_of("small", since=num_lines) != fleet.pid_of("small")
        assert drafters(fleet) == {"small", "lookup"}


def test_prometheus_reads_all_of_it_from_ray(fleet: RunningFleet, tmp_path: Path) -> None:
    program("prometheus")
    port = metrics_port(Path(fleet.said(r"^  logs +\S+, (\S+)/logs")[1]))
    with fleet.channel() as channel:
        assert len(list(generate(inference_pb2_grpc.InferenceStub(channel), 20))) == 20
        admin = admin_pb2_grpc.AdminStub(channel)

        def counted() -> str:
            answer: admin_pb2.MetricsResponse = admin.Metrics(admin_pb2.MetricsRequest(), timeout=PATIENCE_S)
            return answer.text

        asyncio.run(check_on_ray(port, counted, ("verifier", "small", "lookup"), tmp_path))


def test_a_group_that_loses_a_rank_is_started_again(fleet: RunningFleet) -> None:
    num_lines, verifier = len(fleet.lines), fleet.pid_of("verifier", since=_last_join(fleet))
    (rank,) = [pid for pid in descendants(verifier) if "spawn_main" in fleet.processes()[pid]]
    with fleet.channel() as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        undisturbed = list(generate(stub, 8))
        os.kill(rank, signal.SIGKILL)
        assert list(generate(stub, 8)) == undisturbed
    fleet.said(r"verifier (failed: .*; starts again in 0.5 s|lost its process)", since=num_lines)
    assert fleet.pid_of("verifier", since=num_lines) != verifier


def test_a_router_that_dies_is_started_again_at_the_same_address(fleet: RunningFleet) -> None:
    num_lines = len(fleet.lines)
    (router,) = [pid for pid, name in fleet.processes().items() if " -m router " in name]
    os.kill(router, signal.SIGKILL)
    fleet.said("router started again as process", since=num_lines)
    for worker in ("verifier", "small", "lookup"):
        fleet.pid_of(worker, since=num_lines)
    with fleet.channel() as channel:
        assert len(list(generate(inference_pb2_grpc.InferenceStub(channel), 8))) == 8


def test_drafters_come_and_go_while_it_runs(fleet: RunningFleet, folder: Path) -> None:
    def order(*arguments: str) -> tuple[int, str]:
        done = command(fleet.state, *arguments)
        return done.returncode, done.stdout + done.stderr

    assert order("add-drafter", "spare", "-c", str(folder / "more.yaml")) == (0, "spare has joined\n")
    assert drafters(fleet) == {"small", "lookup", "spare"}
    status, said = order("add-drafter", "spare", "-c", str(folder / "more.yaml"))
    assert (status, said) == (
        1,
        "error: the fleet refused to add-drafter spare: the fleet has 'spare' already; remove it first\n",
    )
    status, said = order("add-drafter", "alien", "-c", str(folder / "more.yaml"))
    assert status == 1
    assert "drafter alien has another tokenizer" in said
    fleet.said("alien is refused, and stays so: .* has another tokenizer")
    assert order("remove-drafter", "alien") == (0, "alien is removed\n")
    assert order("remove-drafter", "spare") == (0, "spare is removed\n")
    until(lambda: drafters(fleet) == {"small", "lookup"}, "the router sees it leave")
    status, said = order("remove-drafter", "verifier")
    assert status == 1
    assert "the fleet has no drafter 'verifier'; its drafters are small, lookup" in said


def test_a_second_fleet_is_refused_and_told_why(fleet: RunningFleet, folder: Path, tmp_path: Path) -> None:
    second = command(fleet.state, "up", "-c", str(folder / "fleet.yaml"))
    assert second.returncode == 1
    assert f"a fleet runs already, as process {fleet.process.pid} with gRPC at {fleet.address}" in second.stderr
    assert f"{fleet.state}/specfleet/fleet.lock is locked" in second.stderr

    port = int(fleet.address.rpartition(":")[2])
    file = tmp_path / "same_port.yaml"
    file.write_text((folder / "fleet.yaml").read_text().replace("grpc_port: 0", f"grpc_port: {port}"))
    second = command(tmp_path / "state", "up", "-c", str(file))
    assert second.returncode == 1
    assert f"router.grpc_port is {port} and cannot be had at 127.0.0.1" in second.stderr


def test_on_a_ray_that_is_there_already_what_cannot_be_placed_is_named(
    fleet: RunningFleet, folder: Path, tmp_path: Path
) -> None:
    address = fleet.said(r"Ray: (\S+),")[1]
    joined = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    arguments = ["up", "-c", str(folder / "fleet.yaml"), "--address", address]
    refused = command(tmp_path / "state", *arguments, **joined)
    assert refused.returncode == 1
    (logs,) = re.findall(r"logs are in (/tmp/specfleet-up-\S+)", refused.stdout)
    assert Path(logs, "logs", "store.log").read_text(), "what could explain an error is kept"
    shutil.rmtree(logs)
    assert (
        "the fleet cannot be placed: small needs 1 CPU, label accelerator=none-that-exists, and no node has that "
        "(127.0.0.1 has 100000 CPU" in refused.stderr
    )


def test_ctrl_c_leaves_no_process_and_no_port_behind(fleet: RunningFleet) -> None:
    names = " ".join(fleet.processes().values())
    assert all(part in names for part in ("ray::Verifier", "ray::Drafter", "raylet", "router", "valkey-server"))
    os.killpg(fleet.process.pid, signal.SIGINT)  # as a terminal does
    assert fleet.ended() == 0
    assert fleet.text.endswith("s  ended\n")
    assert fleet.processes() == {}
    host, _, port = fleet.address.rpartition(":")
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port)), timeout=5):
        pass
    assert not (fleet.state / "specfleet" / "fleet.json").exists()


def test_ctrl_c_while_it_starts_leaves_nothing_either(folder: Path, tmp_path: Path) -> None:
    with running_fleet(folder / "fleet.yaml", tmp_path) as starting:
        starting.said("store: Valkey")
        until(lambda: "gcs_server" in " ".join(starting.processes().values()), "Ray is being started")
        os.killpg(starting.process.pid, signal.SIGINT)
        assert starting.ended() == 0
        assert "READY" not in starting.text
        assert starting.processes() == {}


def test_a_command_that_is_killed_takes_all_with_it(folder: Path, tmp_path: Path) -> None:
    with running_fleet(folder / "fleet.yaml", tmp_path) as killed:
        killed.said("Ray: ")
        names = " ".join(killed.processes().values())
        assert all(part in names for part in ("raylet", "router", "valkey-server"))
        killed.process.kill()
        killed.ended()
        # Two agents of Ray's own look for its head for up to a minute before they end; they hold nothing of the fleet.
        until(lambda: all("Agent" in name for name in killed.processes().values()), "all others end")
        kill(list(killed.processes()))
    (folder_in_tmp,) = re.findall(r" -m router --config (\S+)/fleet.yaml", names)
    shutil.rmtree(folder_in_tmp)


def _last_join(fleet: RunningFleet) -> int:
    return max(number for number, line in enumerate(fleet.lines) if "verifier has joined" in line)
