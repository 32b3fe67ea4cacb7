"""The commands that generate: what they print, and how they fail."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from typer.testing import Result

from specfleet import TokenEvent
from specfleet.cli import main
from specfleet.cli.explain import Explanation
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import types_pb2
from tests.specfleet.scripted_fleet import ANSWER, Refusal, ScriptedFleet, Word

Cli = Callable[..., Result]
PROGRAM = [sys.executable, "-m", "specfleet.cli"]


def test_the_answer_is_printed_as_it_is(fleet: ScriptedFleet, cli: Cli) -> None:
    fleet.script.answers = ([Word(1, "[bold]a"), Word(2, "\x1b[31mb\n"), Word(3, "é")],)
    done = cli("generate", "Hello", "--temperature", "0.5", "--seed", "3", "--mode", "pearl", "--stop", "x")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "[bold]a\x1b[31mb\né\n", "")
    (asked,) = fleet.asked(pb.GenerateRequest)
    assert (asked.prompt, asked.sampling.temperature, asked.sampling.seed) == ("Hello", 0.5, 3)
    assert (asked.speculation.mode, list(asked.stop.strings)) == (types_pb2.MODE_PEARL, ["x"])


def test_a_prompt_comes_from_standard_input_or_as_chat(fleet: ScriptedFleet, cli: Cli) -> None:
    cli("generate", "-", stdin="from\nafar")
    cli("generate", "Hi", "--chat")
    first, second = fleet.asked(pb.GenerateRequest)
    assert first.prompt == "from\nafar"
    assert [(message.role, message.content) for message in second.chat.messages] == [("user", "Hi")]


@pytest.mark.parametrize("arguments", [["generate", "-"], ["chat"]])
def test_what_is_no_text_is_one_line_and_code_2(fleet: ScriptedFleet, cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments, stdin=b"caf\xe9\n")
    assert (done.exit_code, fleet.calls) == (2, [])
    assert done.stderr.startswith("specfleet: standard input is not UTF-8 text")


def test_a_screen_that_has_not_all_letters_shows_the_others(
    fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.script.answers = ([Word(1, "caf\xe9 "), Word(2, "\N{CHECK MARK}")],)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "argv", ["specfleet", "generate", "Hello", "--address", fleet.address])
    with pytest.raises(SystemExit) as ended:
        main()
    screen.flush()
    assert ended.value.code == 0
    assert screen.buffer.getvalue() == b"caf\xe9 ?\n"


def test_json_has_an_event_a_line(fleet: ScriptedFleet, cli: Cli) -> None:
    events = [json.loads(line) for line in cli("generate", "Hello", "--json").stdout.splitlines()]
    assert [event["token_id"] for event in events] == [word.token_id for word in ANSWER]
    assert events[1]["drafter"] == "general"
    assert events[-1]["usage"]["num_completion_tokens"] == len(ANSWER)
    assert events[-1]["statistics"]["accepted_by_drafter"] == {"general": 2, "code": 2}


def test_explain_tells_who_guessed_how_many(fleet: ScriptedFleet, cli: Cli) -> None:
    lines = cli("generate", "Hello", "--explain").stdout.splitlines()
    assert lines[0] == "The sea is é."
    assert [line.split()[1:] for line in lines[4:7]] == [
        ["the", "target", "itself", "2", "33", "%"],
        ["general", "2", "33", "%"],
        ["code", "2", "33", "%"],
    ]
    assert lines[7].startswith("6 tokens in 3 rounds · 2.00 tokens per round · 50 % of 8 checked guesses accepted")


def test_each_drafter_has_its_colour_and_the_target_has_none() -> None:
    explanation = Explanation()
    shown = [
        explanation.show(TokenEvent(index=0, token_id=0, text="\x1b[2Ja", drafter=drafter))
        for drafter in ("one", None, "two", "one")
    ]
    one, target, two, again = (text.style for text in shown)
    assert one == again != two
    assert target == ""
    assert {text.plain for text in shown} == {"\N{REPLACEMENT CHARACTER}[2Ja"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-tokens", "0"], "max_tokens is 0; ask for at least one token"),
        (["--mode", "fast"], "mode is 'fast'; it is one of off, vanilla, pearl, fleet"),
        (["--json-schema", "nowhere.json"], "--json-schema: nowhere.json cannot be read: No such file or directory"),
        (["--tls", "nowhere"], "nowhere has no tls.crt, tls.key, ca.crt; a TLS folder holds"),
        (["--api-key-file", "nowhere"], "--api-key-file: nowhere cannot be read: No such file or directory"),
        (["--address", "http://x"], "the address is 'http://x'; give host:port without a scheme"),
    ],
)
def test_wrong_requests_are_one_line_and_code_2(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli("generate", "Hello", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"specfleet: {words}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.UNAUTHENTICATED, 1),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
def test_refusals_are_one_line_without_control_characters(
    fleet: ScriptedFleet, cli: Cli, code: grpc.StatusCode, exit_code: int
) -> None:
    fleet.on_call = lambda request: Refusal(code, "not \x1b[31mthis", retry_after_s=2.5)
    done = cli("generate", "Hello")
    assert done.exit_code == exit_code
    assert done.stderr == "specfleet: not \N{REPLACEMENT CHARACTER}[31mthis (try again in 2.5 s)\n"


def test_a_fleet_that_is_not_there(cli: Cli) -> None:
    done = cli("generate", "Hello", address="127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stderr == "specfleet: no fleet can be reached at 127.0.0.1:1: Connection refused\n"


def test_an_answer_that_was_cut_is_no_success(fleet: ScriptedFleet, cli: Cli) -> None:
    fleet.script.reason = pb.FINISH_REASON_DEADLINE
    done = cli("generate", "Hello")
    assert (done.exit_code, done.stdout) == (1, "The sea is é.\n")
    assert done.stderr == "specfleet: the answer is not whole: it ended by deadline\n"


def test_a_reader_that_leaves_gets_no_traceback(fleet: ScriptedFleet) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*PROGRAM, "generate", "Hello", "--address", fleet.address]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_ends_a_generation_and_cancels_it(fleet: ScriptedFleet) -> None:
    fleet.script.stall_after = 3
    command = [*PROGRAM, "generate", "Hello", "--address", fleet.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert fleet.stalled.wait(30)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")
    assert len(fleet.asked(pb.CancelRequest)) == 1


def test_a_chat_remembers_until_it_is_told_not_to(fleet: ScriptedFleet, cli: Cli) -> None:
    done = cli("chat", "--system", "Be brief.", stdin="one\n\ntwo\n/new\nthree\n")
    assert done.exit_code == 0
    assert done.stdout.split("\n")[:3] == ["The sea is é."] * 3
    assert [[message.content for message in call.chat.messages] for call in fleet.asked(pb.GenerateRequest)] == [
        ["Be brief.", "one"],
        ["Be brief.", "one", "The sea is é.", "two"],
        ["Be brief.", "three"],
    ]


def test_a_chat_shows_the_answer_as_it_is(fleet: ScriptedFleet, cli: Cli) -> None:
    fleet.script.answers = ([Word(1, "[b]a :smile: "), Word(2, "[/x]b")],)
    for arguments in (["chat"], ["chat", "--explain"]):
        assert cli(*arguments, stdin="one\n").stdout.startswith("[b]a :smile: [/x]b\n")


def test_a_chat_goes_on_after_an_error_and_forgets_what_failed(fleet: ScriptedFleet, cli: Cli) -> None:
    refusals = [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")]
    fleet.on_call = lambda request: refusals.pop() if refusals else None
    done = cli("chat", stdin="one\ntwo\n")
    assert done.stderr.splitlines() == ["specfleet: full"]
    assert [message.content for message in fleet.asked(pb.GenerateRequest)[1].chat.messages] == ["two"]


def test_ctrl_c_stops_the_answer_and_not_the_chat(fleet: ScriptedFleet) -> None:
    fleet.script.stall_after = 3
    command = [*PROGRAM, "chat", "--address", fleet.address]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("one\n")
        process.stdin.flush()
        assert process.stdout.read(3) == "The"
        process.send_signal(signal.SIGINT)
        fleet.script.stall_after = None
        stdout, _ = process.communicate("two\n", timeout=30)
    assert process.returncode == 0
    assert stdout.splitlines()[:2] == [" [stopped]", "The sea is é."]
    assert [message.content for message in fleet.asked(pb.GenerateRequest)[1].chat.messages] == ["one", "The", "two"]
    assert len(fleet.asked(pb.CancelRequest)) == 1


def test_bench_compares_modes(fleet: ScriptedFleet, cli: Cli, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    arguments = ["bench", "--prompts", str(prompts), "-n", "5", "-c", "2", "--mode", "off", "--mode", "fleet"]
    lines = cli(*arguments).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["off", "fleet"]
    assert lines[4:] == ["5 requests a mode, 2 at once, 30 tokens", "the same tokens in all modes"]
    figures = json.loads(cli(*arguments, "--json").stdout)
    assert figures["off"]["num_tokens"] == 30
    assert figures["off"]["tokens_per_round"] == 2.0
    assert figures["off"]["acceptance"] == 0.5
    assert 0.0 < figures["fleet"]["first_token_s"]["p50"] <= figures["fleet"]["first_token_s"]["p99"]
    asked = [call.prompt for call in fleet.asked(pb.GenerateRequest)]
    assert sorted(asked[:4]) == ["one"] * 2 + ["two"] * 2, "in each mode before the first is measured"
    assert sorted(asked[4:9]) == ["one"] * 3 + ["two"] * 2


def test_bench_finds_modes_that_disagree(fleet: ScriptedFleet, cli: Cli) -> None:
    def answer_by_mode(request: pb.GenerateRequest) -> None:
        is_off = request.speculation.mode == types_pb2.MODE_OFF
        fleet.script.answers = (ANSWER if is_off else ANSWER[:3],)

    fleet.on_call = answer_by_mode
    done = cli("bench", "-n", "3", "--mode", "off", "--mode", "fleet")
    assert done.exit_code == 1
    assert done.stderr == "specfleet: modes gave different tokens for 3 of 3 prompts; they must not\n"
    assert "the same tokens" not in done.stdout


def test_bench_takes_prompts_as_they_are(fleet: ScriptedFleet, cli: Cli, tmp_path: Path) -> None:
    """A line ends by a line feed and by nothing else that Unicode counts as an end; its carriage return goes too."""
    prompts = {"one.jsonl": '{"prompt": "a\u2028b"}\r\n\n', "one.txt": "a\u2028b\r\n"}
    for name, text in prompts.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert cli("bench", "--prompts", str(tmp_path / name), "-n", "1").exit_code == 0
    assert {call.prompt for call in fleet.asked(pb.GenerateRequest)} == {"a\u2028b"}


def test_bench_refuses_what_is_no_prompt(cli: Cli, tmp_path: Path) -> None:
    for name, text in (
        ("empty.txt", "\n"),
        ("wrong.jsonl", '{"text": "x"}\n'),
        ("null.jsonl", '{"prompt": null}\n'),
        ("ids.jsonl", '{"prompt": [1, 2]}\n'),
    ):
        (tmp_path / name).write_text(text)
        done = cli("bench", "--prompts", str(tmp_path / name))
        assert done.exit_code == 2
        assert name in done.stderr
