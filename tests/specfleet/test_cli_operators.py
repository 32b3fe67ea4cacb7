"""The commands that look at a fleet."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from specfleet import Admin, NotFound, __version__
from specfleet.cli.load import percentile
from specfleet.cli.screen import bar, count, duration, printable
from specfleet.v1 import admin_pb2, types_pb2
from specfleet.v1 import inference_pb2 as pb
from tests.specfleet.scripted_fleet import Refusal, ScriptedFleet

Cli = Callable[..., Result]
Span = admin_pb2.TimelineResponse.Span


@pytest.fixture
def status(fleet: ScriptedFleet) -> admin_pb2.StatusResponse:
    """A fleet that is well."""
    fleet.script.status = admin_pb2.StatusResponse(
        version=__version__,
        uptime_s=3700.0,
        model=types_pb2.ModelIdentity(name="demo", num_parameters=301_000_000),
        num_running=2,
        tokens_per_s=51.25,
        mean_acceptance_length=3.125,
        rounds_by_frontier={0: 4, 1: 2, 7: 8},
        verifier=admin_pb2.VerifierStatus(
            name="verifier",
            state="serving",
            num_ranks=2,
            device="cpu",
            idle_share=0.03,
            num_blocks=10,
            num_free_blocks=4,
        ),
        drafters=[
            admin_pb2.DrafterStatus(
                name="general", kind="model", state="drafting", num_draft_tokens=1000, num_accepted_tokens=700
            ),
            admin_pb2.DrafterStatus(name="lookup", kind="prompt_lookup", state="idle"),
        ],
    )
    fleet.script.spans = lambda: [Span(process="verifier", name="verify", began_s=time.time(), ended_s=time.time())]
    return fleet.script.status


def test_status_shows_verifier_and_drafters(status: admin_pb2.StatusResponse, cli: Cli) -> None:
    done = cli("status")
    assert done.exit_code == 0
    assert "up 1 h 1 min: demo, 301 M parameters" in done.stdout
    assert "2 running, 0 waiting · 51.2 tokens/s · 3.12 tokens per round" in done.stdout
    assert "6 of 10 blocks (60 %)" in done.stdout
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert rows["general"][1:6] == ["model", "drafting", "0", "70", "%"]
    assert rows["lookup"][4] == "-"
    assert "\x1b" not in done.stdout


def test_status_as_json_has_every_field(status: admin_pb2.StatusResponse, cli: Cli) -> None:
    fields = json.loads(cli("status", "--json").stdout)
    assert fields["verifier"]["num_ranks"] == 2
    assert fields["num_waiting"] == 0
    assert fields["rounds_by_frontier"] == {"0": "4", "1": "2", "7": "8"}


def test_a_fleet_with_nobody_in_it(cli: Cli) -> None:
    assert "no drafter has joined" in cli("status").stdout
    assert "No model is there yet" in cli("models").stderr


def test_models_are_listed(fleet: ScriptedFleet, cli: Cli) -> None:
    identity = types_pb2.ModelIdentity(name="demo", architecture="llama", dtype="float32", num_parameters=301_000_000)
    fleet.script.models = [pb.ListModelsResponse.Model(identity=identity, max_context=4096, drafters=["a", "b"])]
    assert cli("models").stdout.splitlines()[2].split() == [
        "demo",
        "llama",
        "301",
        "M",
        "float32",
        "4096",
        "no",
        "a,",
        "b",
    ]


def test_names_are_shown_as_they_are(status: admin_pb2.StatusResponse, fleet: ScriptedFleet, cli: Cli) -> None:
    """Whoever names a device or a model says nothing to the reader's terminal."""
    name = "[/x] [link=http://evil.example]here[/link] :x:"
    status.verifier.device = status.drafters[0].device = name
    identity = types_pb2.ModelIdentity(name=f"qwen[awq] {name}")
    fleet.script.models = [pb.ListModelsResponse.Model(identity=identity)]
    assert cli("status").stdout.count(name) == cli("top").stdout.count(name) == 2
    assert f"qwen[awq] {name}" in cli("models").stdout


def test_top_prints_one_frame_where_it_cannot_live(status: admin_pb2.StatusResponse, cli: Cli) -> None:
    frame = cli("top").stdout
    assert frame == cli("top", "--once").stdout
    rounds = [line.split()[:-1] for line in frame[frame.index("guesses checked") :].splitlines()[2:]]
    assert rounds == [["0", "4"], ["1", "2"], ["2"], ["3", "to", "4"], ["5", "to", "8", "8"]]


def test_top_lives_until_q(status: admin_pb2.StatusResponse, fleet: ScriptedFleet) -> None:
    hanging = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")
    fleet.on_call = lambda request: hanging if len(fleet.calls) == 2 else None
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "specfleet.cli", "top", "--every", "0.1", "--address", fleet.address]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while b"tokens/s \xe2\x96" not in shown:  # the curve needs two looks, and the second finds a router that hangs
            shown += os.read(ours, 65536)
        os.write(ours, b"q")
        while True:  # a terminal that nobody reads would block the writer
            try:
                shown += os.read(ours, 65536)
            except OSError:
                break
        assert process.wait(30) == 0
    os.close(ours)
    assert b"no answer" in shown
    assert b"\x1b[?1049h" in shown, "the live view has a screen of its own"
    assert shown.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?1049l" in shown, "and leaves the terminal as it was"


def test_drain_names_who_is_concerned(fleet: ScriptedFleet, cli: Cli) -> None:
    fleet.script.drained = ["general"]
    assert cli("drain", "general").stdout == "draining; workers: general\n"
    assert cli("drain").exit_code == 0
    assert [call.worker for call in fleet.asked(admin_pb2.DrainRequest)] == ["general", ""]
    fleet.on_call = lambda request: Refusal(grpc.StatusCode.NOT_FOUND, "worker 'x' is not in the fleet")
    assert cli("drain", "x").stderr == "specfleet: worker 'x' is not in the fleet\n"
    with Admin(fleet.address) as admin, pytest.raises(NotFound):
        admin.drain("x")


def test_timeline_writes_a_trace_and_says_how_work_overlaps(fleet: ScriptedFleet, cli: Cli, tmp_path: Path) -> None:
    fleet.script.spans = lambda: [
        Span(process="verifier", name="verify", began_s=100.0, ended_s=101.0, round=1, sequences=[4], num_rows=8),
        Span(process="general", name="draft", began_s=100.5, ended_s=101.5),
        Span(process="verifier", name="verify", began_s=101.5, ended_s=102.0, round=2),
        Span(process="router", name="plan", began_s=101.0, ended_s=101.1),
    ]
    out = tmp_path / "trace.json"
    done = cli("timeline", str(out), "--seconds", "0.3")
    assert done.stdout.splitlines() == [
        f"4 spans in {out}",
        "drafting hidden behind verification: 50 % of 1 s",
        "verifier idle: 25 % of 2 s",
    ]
    events = json.loads(out.read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {1: "router", 2: "verifier", 3: "general"}
    first = next(event for event in events if event["ph"] == "X" and event["pid"] == 2)
    assert (first["ts"], first["dur"], first["args"]["round"]) == (0.0, 1e6, 1)


def test_timeline_without_work_or_without_a_place(cli: Cli, tmp_path: Path) -> None:
    assert "nothing ran meanwhile" in cli("timeline", str(tmp_path / "t.json"), "--seconds", "0.1").stdout
    done = cli("timeline", str(tmp_path / "no" / "t.json"), "--seconds", "0.1")
    assert (done.exit_code, "cannot be written" in done.stderr) == (2, True)


def findings(done: Result) -> list[str]:
    return [line[0] for line in done.stdout.splitlines()]


def test_doctor_finds_a_well_fleet_well(status: admin_pb2.StatusResponse, cli: Cli) -> None:
    done = cli("doctor")
    assert (done.exit_code, findings(done)) == (0, ["✓"] * 7), done.stdout
    assert "the clock of verifier agrees" in done.stdout


@pytest.mark.parametrize(
    ("change", "words", "exit_code"),
    [
        ({"version": "0.0.1"}, "! the fleet is specfleet 0.0.1, this client", 0),
        ({"is_draining": True}, "✗ the fleet is being drained: use another", 1),
        ({"verifier": {"state": "away"}}, "✗ the verifier is away: wait", 1),
        (
            {"drafters": [{"name": "bad", "num_draft_tokens": 1000, "num_accepted_tokens": 20}]},
            "! drafter bad is right in 2 % of 1000 guesses: under 5 %; check that it fits",
            0,
        ),
    ],
)
def test_doctor_says_what_to_do(
    status: admin_pb2.StatusResponse, cli: Cli, change: dict[str, Any], words: str, exit_code: int
) -> None:
    for name in change:
        status.ClearField(name)
    status.MergeFrom(admin_pb2.StatusResponse(**change))
    done = cli("doctor")
    assert words in done.stdout
    assert done.exit_code == exit_code


@pytest.mark.parametrize(("offset_s", "words"), [(5.0, "ahead of this one"), (-5.0, "behind this one")])
def test_doctor_finds_clocks_that_differ(
    status: admin_pb2.StatusResponse, fleet: ScriptedFleet, cli: Cli, offset_s: float, words: str
) -> None:
    fleet.script.spans = lambda: [Span(process="general", began_s=time.time(), ended_s=time.time() + offset_s)]
    assert words in cli("doctor").stdout


def test_doctor_without_a_fleet(cli: Cli) -> None:
    done = cli("doctor", address="127.0.0.1:1")
    assert (done.exit_code, findings(done)) == (1, ["✗"])


def test_doctor_tells_of_a_trial_that_fails(status: admin_pb2.StatusResponse, fleet: ScriptedFleet, cli: Cli) -> None:
    def refuse(request: Any) -> Refusal | None:
        is_trial = isinstance(request, pb.GenerateRequest)
        return Refusal(grpc.StatusCode.INTERNAL, "broken") if is_trial else None

    fleet.on_call = refuse
    done = cli("doctor")
    assert done.exit_code == 1
    assert "✗ a trial failed: broken" in done.stdout


def test_numbers_look_as_people_write_them() -> None:
    shown = [duration(seconds) for seconds in (2e-5, 0.0352, 0.5, 12.34, 75.0, 3700.0, 200_000.0)]
    assert shown == ["20 µs", "35.2 ms", "500 ms", "12.3 s", "1 min 15 s", "1 h 1 min", "2 days 7 h"]
    assert [count(number) for number in (7, 9_999, 98_765, 301e6, 7e9)] == ["7", "9999", "98.8 k", "301 M", "7 G"]
    assert [count(number) for number in (999_499, 999_600, 999.6e6, 2.5e12)] == ["999 k", "1 M", "1 G", "2.5 T"]
    assert [duration(seconds) for seconds in (0.9994, 0.9996)] == ["999 ms", "1 s"]
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert [percentile([1.0, 2.0], share) for share in (0.5, 0.51)] == [1.0, 2.0]
    assert [bar(share, 2) for share in (0.0, 0.5, 0.75, 1.0, 2.0)] == ["", "█", "█▌", "██", "██"]
    assert printable("a\tb\nc\r\x1b\x9b") == "a\tb\nc" + "\N{REPLACEMENT CHARACTER}" * 3
