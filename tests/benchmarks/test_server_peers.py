"""vLLM and SGLang as peers: how they are started, asked and understood. Neither is installed for tests: what is started
is a stand-in (see `stand_in.py`) before a real fleet."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import lineup, openai_tokens, sglang, vllm
from benchmarks.peers.peer import Ask, Said, is_ours
from benchmarks.peers.server_process import Face, ServerProcess, server_process
from benchmarks.peers.workloads import Question, workload
from contracts.config import DrafterConfig
from contracts.errors import InvalidArgument, Unavailable
from models.tokenizer import load_tokenizer
from specfleet.async_client import AsyncClient
from specfleet.cli.load import run_load
from tests.benchmarks import stand_in
from tests.benchmarks.test_optional_peers import DEMO, RIG
from tests.service.fleet import engine_of, running_fleet
from tests.service.router_process import until

TARGET, DRAFT = str(DEMO / "target"), str(DEMO / "drafter-general")
NAMES = [f"{program.PREFIX}{way}" for program in (vllm, sglang) for way in ("plain", "draft", "lookup")]
ASK = Ask(max_tokens=12, temperature=0.0, seed=1, together=2)
CPU_RIG = replace(RIG, drafters=[DRAFT], device="cpu", their_dtype="float32", together=2, context=512, threads=1)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(stand_in.NOTES, str(tmp_path))
    return stand_in.install(tmp_path)


def notes(folder: Path) -> list[dict[str, Any]]:
    """Of all servers that were started, in turn."""
    return [
        json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    ]


def words_of(note: dict[str, Any]) -> list[str]:
    """But the last four, which are host and port."""
    assert note["words"][-4:-1] == ["--host", "127.0.0.1", "--port"], "no other machine can ask it"
    return list(note["words"][:-4])


def is_running(process: int) -> bool:
    """One that has ended may still be listed, until whoever inherited it looks."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.timeout(120)
def test_servers_are_started_asked_and_understood(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = replace(CPU_RIG, vllm_python=str(python), sglang_python=str(python))
    work = workload("domain", load_tokenizer(DEMO / "target" / "tokenizer.json"), corpus=None, count=2)
    assert lineup.chosen(NAMES, rig, print) == NAMES
    assert lineup.versions(NAMES, rig) == ["vLLM 0.33.0+cpu", "SGLang 0.5.23"]

    async def answers() -> tuple[list[tuple[int, ...]], dict[str, list[Said]]]:
        drafters = {
            "model": DrafterConfig(kind="model", engine=engine_of(Path(DRAFT))),
            "lookup": DrafterConfig(kind="prompt_lookup"),
        }
        async with running_fleet(engine_of(Path(TARGET)), drafters) as fleet, AsyncClient(fleet.address) as client:
            monkeypatch.setenv(stand_in.FLEET, str(fleet.http_port))
            prompts = [question.tokens for question in work.warm_up]
            options = {"max_tokens": ASK.max_tokens, "temperature": 0.0, "seed": 1}
            load = await run_load(client, prompts, options, concurrency=2, on_answer=lambda: None)  # type: ignore[arg-type]
            async with lineup.lined_up(NAMES, TARGET, rig) as peers:
                assert all(len(peer.processes()) == 2 for peer in peers), "its helper's processor time is its own"
                assert all(peer.max_together == 2 for peer in peers)
                first = {peer.name: await peer.answer(work.warm_up, ASK) for peer in peers}
                again = {peer.name: await peer.answer(work.warm_up, ASK) for peer in peers}
        assert [[each.token_ids for each in said] for said in first.values()] == [
            [each.token_ids for each in said] for said in again.values()
        ]
        return [answer.token_ids for answer in load.answers], again

    reference, said = asyncio.run(answers())
    assert list(said) == NAMES
    for name, each in said.items():
        assert [one.token_ids for one in each] == reference, name
        assert all(one.first_token_s > 0.0 and one.token_s is not None for one in each)
        for one in each:
            assert sum(one.acceptance_histogram) == one.num_rounds
            told = sum((1 + depth) * rounds for depth, rounds in enumerate(one.acceptance_histogram))
            assert told >= len(one.token_ids)
    for name in ("vllm-plain", "sglang-plain"):
        assert all(one.acceptance_histogram == (len(one.token_ids),) for one in said[name])
    for name in ("vllm-draft", "sglang-draft"):
        assert sum(one.num_rounds for one in said[name]) < sum(map(len, reference))
    started = notes(tmp_path)
    asyncio.run(until(lambda: not any(is_running(note["helper"]) for note in started), "nothing is left behind"))
    check_command_lines(started)


def check_command_lines(started: Sequence[dict[str, Any]]) -> None:
    plain, draft, lookup, *rest = started
    common = [
        TARGET,
        "--dtype",
        "float32",
        "--max-model-len",
        "517",
        "--max-num-seqs",
        "2",
        "--no-enable-prefix-caching",
    ]
    assert words_of(plain) == common
    for note, drafts in (
        (draft, {"method": "draft_model", "model": DRAFT, "num_speculative_tokens": 5}),
        (
            lookup,
            {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5},
        ),
    ):
        words = words_of(note)
        assert words[: len(common)] == common
        assert json.loads(words[len(common) + 1]) == drafts
        assert [words[len(common)], *words[len(common) + 2 :]] == [
            "--speculative-config",
            "--per-request-spec-decode-metrics",
            "summary",
        ]
        assert note["environment"]["OMP_NUM_THREADS"] == "1"
        assert note["environment"]["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
        assert note["environment"]["VLLM_NO_USAGE_STATS"] == "1"
    common = ["--model-path", TARGET, "--device", "cpu", "--dtype", "float32", "--max-running-requests", "2"]
    common += ["--max-total-tokens", "1152", "--disable-radix-cache", "--disable-overlap-schedule"]
    assert [words_of(note)[len(common) :] for note in rest] == [
        [],
        ["--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", DRAFT],
        ["--speculative-algorithm", "NGRAM"],
    ]
    for note in rest:
        assert words_of(note)[: len(common)] == common
        assert note["environment"]["SGLANG_USE_CPU_ENGINE"] == "1"
        assert note["environment"]["SGLANG_CPU_OMP_THREADS_BIND"].isdigit(), "one core for one thread"


def test_on_a_gpu_they_leave_room_for_each_other(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stand_in.FLEET, "0")
    common: dict[str, Any] = {"python": str(python), "target": TARGET, "draft": DRAFT, "device": "cuda"}
    common |= {"dtype": "bfloat16", "threads": 1, "together": 4, "context": 100}

    async def start() -> None:
        async with vllm.vllm_server("plain", **common), sglang.sglang_server("plain", **common):
            pass

    asyncio.run(start())
    theirs, other = notes(tmp_path)
    assert words_of(theirs)[-2:] == ["--gpu-memory-utilization", "0.2"]
    assert words_of(other)[2:4] == ["--device", "cuda"]
    assert words_of(other)[-3:] == ["--max-total-tokens", "656", "--disable-radix-cache"]
    assert "SGLANG_USE_CPU_ENGINE" not in other["environment"]


def test_what_cannot_run_here_is_refused_with_what_to_do(python: Path) -> None:
    nowhere = replace(CPU_RIG, vllm_python="no-such-python", sglang_python="no-such-python")
    for name, option in (("vllm-plain", "--vllm-python"), ("sglang-lookup", "--sglang-python")):
        with pytest.raises(InvalidArgument, match=f"{option} is no-such-python, which does not start"):
            lineup.chosen([name], nowhere, print)
    with pytest.raises(
        InvalidArgument, match=r"has vLLM 0.33.0\+cpu for cpu, and the fleet runs on cuda here; install"
    ):
        vllm.vllm_version(str(python), "cuda")
    with pytest.raises(InvalidArgument, match=r"SGLang that can be asked \(.*No accelerator.*\); install sglang there"):
        sglang.sglang_version(str(python), "cuda")
    alone = replace(CPU_RIG, drafters=["prompt_lookup"], vllm_python=str(python))
    assert lineup.chosen(["vllm-plain", "vllm-lookup"], alone, print) == ["vllm-plain", "vllm-lookup"]
    with pytest.raises(InvalidArgument, match="right is a checkpoint folder, which assists vllm-draft too"):
        lineup.chosen(["vllm-draft"], alone, print)
    assert not any(map(is_ours, NAMES))


def test_a_server_that_does_not_start_is_told_with_its_last_words(python: Path) -> None:
    face = Face(
        path=openai_tokens.PATH, body=openai_tokens.body, said=lambda events: openai_tokens.said_of(events, None)
    )

    async def start() -> None:
        program = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", TARGET]
        async with server_process("x", program, {"--no-such": 1}, face=face, together=1, start_s=60.0):
            pass

    with pytest.raises(Unavailable, match=r"x has ended: (.|\n)*unrecognized arguments: --no-such 1"):
        asyncio.run(start())


def test_a_server_is_asked_as_much_at_once_as_a_cell_says(monkeypatch: pytest.MonkeyPatch) -> None:
    together = 40  # more than asyncio has threads on any machine
    met = threading.Barrier(together)

    def say(_: ServerProcess, question: Question, ask: Ask) -> Said:
        met.wait(5.0)
        return Said(token_ids=question.tokens, first_token_s=0.1, token_s=None, num_rounds=1, acceptance_histogram=(1,))

    monkeypatch.setattr(ServerProcess, "_say", say)
    face = Face(path="/", body=openai_tokens.body, said=lambda events: openai_tokens.said_of(events, None))
    server = ServerProcess(name="x", process=0, port=0, max_together=together, face=face)
    questions = [Question(task="any", tokens=(number,)) for number in range(together)]
    answers = asyncio.run(server.answer(questions, replace(ASK, together=together)))
    assert [answer.token_ids for answer in answers] == [question.tokens for question in questions]


def tokens(*ids: int) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": "", "token_ids": list(ids)}]}


def test_rounds_are_what_a_server_tells_of_its_drafts_and_not_its_events() -> None:
    end: dict[str, Any] = {"choices": [], "histogram": [1, 0, 2]}
    events = [(tokens(5), 0.5), (tokens(6, 7, 8, 9), 1.0), (tokens(1, 2, 3, 4), 2.0), (tokens(), 2.5), (end, 2.5)]

    def histogram(event: dict[str, Any]) -> list[int] | None:
        return event.get("histogram")

    said = openai_tokens.said_of(events, histogram)
    assert said.token_ids == (5, 6, 7, 8, 9, 1, 2, 3, 4)
    assert (said.num_rounds, said.acceptance_histogram) == (5, (3, 0, 2)), "two rounds had no drafts"
    assert said.first_token_s == 0.5
    assert said.token_s == pytest.approx(1.5 / 8)
    cut_off = openai_tokens.said_of([*events[:2], (end, 2.0)], histogram)
    assert cut_off.acceptance_histogram == (1, 0, 2), "the last round brought more than was asked for"
    assert openai_tokens.said_of(events, None).acceptance_histogram == (9,)
    assert openai_tokens.said_of([(tokens(5), 0.5), ({**end, "histogram": []}, 1.0)], histogram).num_rounds == 1
    with pytest.raises(Unavailable, match="says nothing of its drafts"):
        openai_tokens.said_of(events[:-1], histogram)
    with pytest.raises(Unavailable, match="without token ids"):
        openai_tokens.said_of([({"choices": [{"index": 0, "text": "a"}]}, 0.5)], None)
    with pytest.raises(Unavailable, match="without tokens"):
        openai_tokens.said_of([(end, 2.5)], None)
