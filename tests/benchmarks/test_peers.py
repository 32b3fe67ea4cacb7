"""`python -m benchmarks.peers`: what is made of measurements, on given ones; and one run of everything, tiny."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import guard, measuring
from benchmarks.peers.__main__ import main
from benchmarks.peers.arrivals import Arrivals, arrival_times
from benchmarks.peers.estimate import Estimate, bootstrapped, ratio
from benchmarks.peers.figures import Same, compared, rows, same_tokens
from benchmarks.peers.fleet import FleetMode
from benchmarks.peers.line_process import said
from benchmarks.peers.measuring import Amounts, Measuring
from benchmarks.peers.peer import Ask, Said
from benchmarks.peers.pictures import draw
from benchmarks.peers.record import FILE, Record
from benchmarks.peers.report import Report, content, markdown
from benchmarks.peers.turns import Cell, Turn, alternate
from benchmarks.peers.workloads import Question, Workload, workload
from contracts.errors import InvalidArgument
from models.tokenizer import load_tokenizer
from router.timeline import Span

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
CELL = Cell(workload="domain", temperature=0.0, together=1)
PEERS = {"hf-plain": 10.0, "hf-assisted": 15.0, "off": 20.0, "vanilla": 30.0, "pearl": 35.0, "fleet": 40.0}


def turn(
    peer: str, elapsed_s: float, *, cell: Cell = CELL, tokens: tuple[int, ...] = tuple(range(40)), machine: float = 1.0
) -> Turn:
    ours = not peer.startswith("hf-")
    answer = Said(
        token_ids=tokens,
        first_token_s=0.1,
        token_s=elapsed_s / 40,
        num_rounds=10,
        acceptance_histogram=(2, 3, 0, 5) if peer != "hf-plain" else (10,),
    )
    return Turn(
        cell=cell,
        peer=peer,
        elapsed_s=elapsed_s,
        cpu_s=2.0 * elapsed_s,
        peak_bytes=2**20,
        router_s=0.001 * machine if ours else None,
        answers=(answer,),
    )


def arrivals(load: str, mode: str) -> Arrivals:
    seconds = {"p50": 0.5, "p90": 1.0, "p99": 2.0}
    return Arrivals(
        load=load,
        mode=mode,
        requests_per_s=1.0,
        num_requests=60,
        tokens_per_s=30.0,
        latency_s=seconds,
        first_token_s=seconds,
        token_s=seconds,
    )


def turns(*, slower: str = "", times: float = 1.0) -> list[Turn]:
    """Alternations on a machine whose speed changes by a half; one peer may be slower than usual."""
    return [
        turn(peer, 40.0 / rate * machine * (times if peer == slower else 1.0), machine=machine)
        for machine in 3 * (1.0, 1.5, 1.2, 0.9, 1.1, 1.4, 1.0, 1.3, 0.9)
        for peer, rate in PEERS.items()
    ]


def test_an_interval_holds_the_median_and_lies_within_the_values() -> None:
    values = [3.0, 9.0, 4.0, 5.0, 4.5]
    found = bootstrapped(values)
    assert found.median == 4.5
    assert min(values) <= found.low < found.median < found.high <= max(values)
    assert bootstrapped(values) == found
    assert bootstrapped([2.0] * 5) == Estimate(median=2.0, low=2.0, high=2.0)
    with pytest.raises(InvalidArgument, match="no values"):
        bootstrapped([])


def test_what_the_machine_does_to_both_cancels_out_of_a_ratio() -> None:
    by_pair = {(each.peer, each.over): each.estimate for each in compared(turns())}
    assert by_pair["off", "hf-plain"].low == pytest.approx(2.0)
    assert by_pair["off", "hf-plain"].high == pytest.approx(2.0)
    assert by_pair["fleet", "hf-assisted"].median == pytest.approx(40 / 15)
    assert ("off", "off") not in by_pair
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_figures_of_a_turn() -> None:
    one = turn("fleet", 2.0)
    assert one.tokens_per_s == 20.0
    assert one.tokens_per_round == 4.0
    assert one.cpu_s_per_token == 0.1
    assert [one.accepted_at(depth) for depth in (1, 2, 3, 4)] == [0.8, 0.5, 0.5, 0.0]


def test_rounds_bring_accepted_tokens_and_one_more() -> None:
    found = said([[5], [6, 7, 8], [9, 2]], [0.5, 1.0, 2.5])
    assert found.token_ids == (5, 6, 7, 8, 9, 2)
    assert found.first_token_s == 0.5
    assert found.token_s == pytest.approx(0.4)
    assert (found.num_rounds, found.acceptance_histogram) == (3, (1, 1, 1))


def test_other_tokens_are_told_by_whose_they_are() -> None:
    measured, per = turns(), len(PEERS)
    measured[per + 4] = turn("pearl", 1.0, tokens=(1, 2))
    same = {(each.peer, each.reference): each for each in same_tokens(measured)}
    assert same["fleet", "hf-plain"].num_same == same["fleet", "hf-plain"].num_answers == 27
    assert (same["pearl", "hf-plain"].num_same, same["pearl", "hf-plain"].num_answers) == (26, 27)
    assert same["pearl", "off"].num_same == 26


def test_answers_are_compared_alternation_by_alternation() -> None:
    """For each asks other prompts; and the same in every cell."""
    measured = [
        turn(peer, 1.0, cell=replace(CELL, together=together), tokens=(number, 1, 2))
        for together, peers in ((1, ["hf-plain", "off", "fleet"]), (4, ["off", "fleet"]))
        for number in range(3)
        for peer in peers
    ]
    measured.pop()
    same = {(each.peer, each.reference): (each.num_same, each.num_answers) for each in same_tokens(measured)}
    assert same["off", "hf-plain"] == same["off", "off"] == (6, 6)
    assert same["fleet", "hf-plain"] == same["fleet", "off"] == (5, 5)


def test_what_only_a_larger_cell_asks_is_compared_there() -> None:
    more = [turn("off", 1.0, cell=replace(CELL, together=16)), turn("fleet", 1.0, cell=replace(CELL, together=16))]
    second = [replace(each.answers[0], token_ids=(each.peer == "off",)) for each in more]
    measured = [turn(peer, 1.0) for peer in ("hf-plain", "off", "fleet")]
    measured += [replace(each, answers=(*each.answers, answer)) for each, answer in zip(more, second, strict=True)]
    same = {(each.peer, each.reference): (each.num_same, each.num_answers) for each in same_tokens(measured)}
    assert same["fleet", "hf-plain"] == (2, 2)
    assert same["fleet", "off"] == (2, 3)


def test_every_alternation_asks_everyone_the_same_which_nobody_was_asked_before() -> None:
    asked: dict[str, list[Sequence[Question]]] = {"a": [], "b": []}

    class Asked:
        max_together = None

        def __init__(self, name: str) -> None:
            self.name = name

        def processes(self) -> list[int]:
            return []

        def router_work(self) -> None:
            return None

        async def answer(self, questions: Sequence[Question], _: Ask) -> list[Said]:
            asked[self.name].append(questions)
            return [*turns()[0].answers]

    async def alternations(first: int) -> int:
        found = alternate(CELL, work, [Asked("a"), Asked("b")], first=first, max_tokens=8, on_turn=lambda _: None)
        return len([turns_ async for turns_ in found])

    tokenizer = load_tokenizer(DEMO / "target" / "tokenizer.json")
    work = workload("domain", tokenizer, corpus=None, count=14, num_alternations=3)
    assert asyncio.run(alternations(0)) == 3
    assert asked["a"] == asked["b"] == [work.warm_up, *work.alternations]
    assert len({question for questions in asked["a"] for question in questions}) == 4 * 14
    asked["a"].clear()
    assert asyncio.run(alternations(2)) == 1
    assert asked["a"] == [work.warm_up, work.alternations[2]], "a run that goes on asks what it would have asked"
    more = workload("domain", tokenizer, corpus=None, count=14, num_alternations=4)
    assert more.alternations == (*work.alternations, work.warm_up), "there are 56"


def test_a_turn_asks_at_least_as_many_as_are_asked_at_a_time() -> None:
    tokenizer = load_tokenizer(DEMO / "target" / "tokenizer.json")
    work = workload("domain", tokenizer, corpus=None, count=7, most_together=16, num_alternations=2)
    turn_ = work.alternations[1]
    assert [len(work.of_turn(turn_, together=together)) for together in (1, 4, 16)] == [7, 7, 16]
    assert list(work.of_turn(turn_, together=16)[:7]) == list(work.of_turn(turn_, together=1)), "the same, and more"
    assert len(set(work.questions)) == 3 * 16


def test_lessons_are_what_no_turn_asks() -> None:
    tokenizer = load_tokenizer(DEMO / "target" / "tokenizer.json")
    plain = workload("domain", tokenizer, corpus=None, count=7, num_alternations=2)
    taught = workload("domain", tokenizer, corpus=None, count=7, num_alternations=2, num_lessons=21)
    assert replace(taught, lessons=()) == plain, "what is timed does not depend on them"
    assert len({*taught.questions, *taught.lessons}) == 3 * 7 + 21
    with pytest.raises(InvalidArgument, match="domain has 35 prompts besides the 21 of its turns; 36 were to be"):
        workload("domain", tokenizer, corpus=None, count=7, num_alternations=2, num_lessons=36)


def test_sampled_answers_are_compared_among_ours_only() -> None:
    sampled = [replace(each, cell=replace(CELL, temperature=0.8)) for each in turns()]
    found = same_tokens(sampled)
    assert {each.reference for each in found} == {"off"}
    assert not any(each.peer.startswith("hf-") for each in found)
    assert found[0] == Same(
        workload="domain", temperature=0.8, peer="off", reference="off", num_same=27, num_answers=27
    )


def test_the_guard_sees_a_drop_beyond_noise_and_nothing_else() -> None:
    before = guard.guarded(turns())
    assert guard.dropped(guard.guarded(turns()), before) == []
    assert guard.dropped(guard.guarded(turns(slower="hf-plain", times=1.3)), before) == []
    worse = guard.dropped(guard.guarded(turns(slower="off", times=1.3)), before)
    assert [each.partition(":")[0] for each in worse] == ["off over hf-plain"]
    worse = guard.dropped(guard.guarded(turns(slower="fleet", times=1.3)), before)
    assert [each.partition(":")[0] for each in worse] == [
        "fleet over hf-plain",
        "fleet over hf-assisted",
        "fleet over off",
    ]
    slow_router = [replace(each, router_s=2.0 * each.router_s) if each.router_s else each for each in turns()]
    assert [each.partition(":")[0] for each in guard.dropped(guard.guarded(slow_router), before)] == [
        "router rounds of fleet in the time of one token of hf-plain"
    ]


def test_the_guard_compares_each_alternation_with_the_same_one_of_before() -> None:
    """Other prompts are drafted for twice as well: that hides no loss, and is none."""
    before = {"fleet over off": [2.0, 4.0, 3.0, 2.2, 3.9, 2.5, 2.0, 3.3, 4.1]}
    noise = (1.0, 0.97, 1.04, 0.99, 1.02, 0.95, 1.03, 1.01, 0.98)
    same = [was * by for was, by in zip(before["fleet over off"], noise, strict=True)]
    assert guard.dropped({"fleet over off": same}, before) == []
    worse = {"fleet over off": [0.88 * value for value in same]}
    assert guard.dropped(worse, before) == [
        "fleet over off: 2.75, was 3.00; prompt by prompt 0.88 (0.85 to 0.91) times that"
    ]
    unsure = {"fleet over off": [0.96 * value for value in same]}
    assert guard.dropped(unsure, before) == [], "so much another day may take"


def test_the_guard_refuses_what_could_hide_a_large_loss() -> None:
    measured, per = turns(), len(PEERS)
    with pytest.raises(InvalidArgument, match="5 alternations were measured; the guard needs 27 or more"):
        guard.guarded(measured[: 5 * per])
    uneven = [
        replace(each, elapsed_s=(3.0 if number // per % 2 else 1.0) * each.elapsed_s) if each.peer == "pearl" else each
        for number, each in enumerate(measured)
    ]
    with pytest.raises(
        InvalidArgument,
        match=r"25% may be hidden: pearl over off is 1.00 \(0.33 to 1.00\) times what it was; measure",
    ):
        guard.dropped(guard.guarded(uneven), guard.guarded(measured))
    with pytest.raises(InvalidArgument, match="did not measure 'a over b' as often as the baseline"):
        guard.dropped({"a over b": [1.0]}, {"a over b": [1.0, 1.0]})


def test_a_baseline_is_held_against_the_same_conditions_only(tmp_path: Path) -> None:
    path, ratios = tmp_path / "baseline.json", guard.guarded(turns())
    guard.write_baseline(path, ratios, {"max_tokens": 64}, "a machine")
    read = guard.read_baseline(path, {"max_tokens": 64})
    assert {name: pytest.approx(of, rel=1e-3) for name, of in ratios.items()} == read
    with pytest.raises(InvalidArgument, match=r"made with \{'max_tokens': 64\}, and this run has \{'max_tokens': 8\}"):
        guard.read_baseline(path, {"max_tokens": 8})
    path.write_text("{}")
    with pytest.raises(InvalidArgument, match="make one with --save-baseline"):
        guard.read_baseline(path, {})
    with pytest.raises(InvalidArgument, match="hf-assisted not measured"):
        guard.guarded([each for each in turns() if each.peer != "hf-assisted"])


def test_requests_arrive_as_often_as_asked_in_every_part() -> None:
    times = arrival_times([2.0, 20.0], seconds=400.0, seed=1)
    assert times == sorted(times)
    assert sum(at < 200.0 for at in times) == pytest.approx(400, rel=0.2)
    assert sum(at >= 200.0 for at in times) == pytest.approx(4000, rel=0.1)
    assert times == arrival_times([2.0, 20.0], seconds=400.0, seed=1)
    assert times != arrival_times([2.0, 20.0], seconds=400.0, seed=2)


def test_workloads_take_their_tasks_in_turn(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(DEMO / "target" / "tokenizer.json")
    domain = workload("domain", tokenizer, corpus=None, count=5)
    assert len({question.task for question in domain.warm_up}) == 5
    (tmp_path / "prompts").mkdir()
    records = [
        {"task": task, "turns": [text, "more"]} for task, text in (("qa", "who"), ("qa", "x" * 9000), ("rag", "why"))
    ]
    path = tmp_path / "prompts" / "spec_bench.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    spec_bench = workload("spec-bench", tokenizer, corpus=tmp_path, count=9)
    assert [question.task for question in spec_bench.warm_up] == ["qa", "rag"], "too long ones are left out"
    with pytest.raises(InvalidArgument, match="give --corpus DIR"):
        workload("mixed", tokenizer, corpus=None, count=4)
    path.write_text("{}\n")
    with pytest.raises(InvalidArgument, match="cannot read Spec-Bench prompts"):
        workload("spec-bench", tokenizer, corpus=tmp_path, count=4)


def test_everything_measured_is_told_and_drawn(tmp_path: Path) -> None:
    measured = [*turns(), *(replace(each, cell=replace(CELL, together=4)) for each in turns() if each.router_s)]
    report = Report(
        machine="a machine",
        conditions={"max_tokens": 64, "drafters": ["general", "sql"]},
        turns=measured,
        rows=rows(measured),
        ratios=compared(measured),
        same=same_tokens(measured),
        arrivals=[arrivals(load, mode) for load in ("low", "high") for mode in ("off", "fleet")],
        spans=[
            Span(process=process, name=name, began_s=10.0 + at_s, ended_s=10.02 + at_s, num_rows=5)
            for process, name, at_s in (
                ("verifier", "verify", 0.0),
                ("general", "draft", 0.01),
                ("router", "plan", 0.02),
            )
        ],
    )
    text = markdown(report)
    assert "### domain, temperature 0, 4 at once: 27 alternations" in text
    assert "| domain, temperature 0, 1 at once | fleet | 4.00 (4.00 to 4.00) | 2.67 (2.67 to 2.67) | 2.00" in text
    assert "| low | fleet | 60 | 1.00 | 30.0 | 0.50 / 1.00 / 2.00 | 0.50 / 1.00 / 2.00 | 500 / 1000 / 2000 |" in text
    written = json.loads(json.dumps(content(report)))
    assert len(written["turns"]) == len(measured)
    assert {ratio_["over"] for ratio_ in written["ratios"]} == {"hf-plain", "hf-assisted", "off"}
    draw(replace(report, ratios=[], arrivals=[], spans=[]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"at-once.png", "acceptance.png"}, "what there is, no more"


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """But for the alternation that was being written, and under the same conditions alone."""
    conditions = {"max_tokens": 64, "drafters": ("general", "sql"), "machine": "a machine"}
    measured, per = turns(), len(PEERS)
    record = Record(tmp_path, conditions)
    for first in (0, per):
        record.add_alternation(measured[first : first + per])
    record.add_capacity(1.5)
    record.add_arrivals("low", [arrivals("low", "off"), arrivals("low", "fleet")])
    record.add_spans([Span(process="router", name="plan", began_s=1.0, ended_s=2.0, num_rows=5)])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"alternation": [{"cel')
    again = Record(tmp_path, conditions, go_on=True)
    assert again.turns == measured[: 2 * per]
    assert (again.capacity, again.arrivals, again.spans) == (1.5, record.arrivals, record.spans)
    again.add_alternation(measured[2 * per : 3 * per])
    assert len(Record(tmp_path, conditions, go_on=True).alternations(CELL)) == 3
    with pytest.raises(
        InvalidArgument, match=r"with machine 'a machine', and this run has 'another'; the rest must be"
    ):
        Record(tmp_path, {**conditions, "machine": "another"}, go_on=True)
    assert Record(tmp_path, conditions).turns == [], "without it, all begins anew"
    (tmp_path / FILE).write_text("nothing\n")
    with pytest.raises(InvalidArgument, match="is no record of a run"):
        Record(tmp_path, conditions, go_on=True)


def test_a_run_that_has_only_arrivals_left_warms_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    async def answer(mode: FleetMode, questions: Sequence[Question], _: Ask) -> list[Said]:
        done.append((mode.name, questions))
        return []

    async def capacity(*_: object, **__: object) -> float:
        done.append("capacity")
        return 1.0

    async def arrive(load: str, *_: object, **__: object) -> list[Arrivals]:
        done.append(load)
        return []

    monkeypatch.setattr(FleetMode, "answer", answer)
    monkeypatch.setattr(measuring, "measure_capacity", capacity)
    monkeypatch.setattr(measuring, "measure_arrivals", arrive)
    nothing: Any = None
    modes = [FleetMode(name=name, fleet=nothing, client=nothing) for name in ("off", "fleet")]
    asked, taught = (Question(task="any", tokens=(token,)) for token in (1, 2))
    work = Workload(name="domain", count=1, warm_up=(asked,), alternations=((asked,),), lessons=(taught,))
    amounts = Amounts(
        temperatures=[], together=[4], alternations=1, max_tokens=8, arrival_s=1.0, arrival_alternations=1
    )
    record = Record(None, {})
    record.add_spans([Span(process="router", name="plan", began_s=1.0, ended_s=2.0, num_rows=5)])
    asyncio.run(Measuring(works=[work], amounts=amounts, record=record, say=print).go_on(modes, seconds=60.0))
    warm_up = [("off", (asked,)), ("fleet", (asked,))]
    assert done == [("fleet", (taught,)), *warm_up, "capacity", "low", "high", "fluctuating"]


@pytest.mark.timeout(300)  # processes that load torch, one of them transformers too
def test_one_run_of_peers_on_the_small_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peers = ["hf-plain", "off", "fleet"]
    asked = ["--target", str(DEMO / "target"), "--drafter", "prompt_lookup", "--dtype", "float32", "--threads", "1"]
    short = ["--alternations", "1", "--num-prompts", "2", "--max-tokens", "8", "--temperature", "0", "--together", "1"]
    loads = ["--arrival-s", "0.3", "--arrival-alternations", "1"]
    only = [word for peer in peers for word in ("--only", peer)]
    assert main([*asked, *short, *loads, *only, "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    whole = (tmp_path / FILE).read_bytes()
    assert main([*asked, *short, *loads, *only, "--out", str(tmp_path), "--go-on"]) == 0, capsys.readouterr().err
    assert (tmp_path / FILE).read_bytes() == whole, "there was nothing left to measure"
    assert main([*asked, *short, *loads, *only, "--together", "2", "--out", str(tmp_path), "--go-on"]) == 2
    assert "was measured with together 1, and this run has 2" in capsys.readouterr().err
    written = json.loads((tmp_path / "peers.json").read_text())
    assert [row["peer"] for row in written["rows"]] == peers
    for row in written["rows"]:
        assert row["figures"]["cpu_s_per_token"]["median"] > 0
        assert row["figures"]["peak_bytes"]["median"] > 2**26
    assert all(each["num_same"] == each["num_answers"] for each in written["same"])
    assert [each["peer"] for each in written["same"] if each["reference"] == "hf-plain"] == peers
    assert {span["process"] for span in written["spans"]} >= {"verifier", "router"}
    assert (tmp_path / "peers.md").read_text().startswith(written["machine"])
    assert {path.stem for path in tmp_path.glob("*.png")} >= {"speed-up", "timeline"}


def test_what_can_never_work_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "hf-fast"]) == 2
    assert "mode is 'hf-fast'" in capsys.readouterr().err.replace('"', "'")
    assert main(["--only", "hf-assisted", "--drafter", "prompt_lookup"]) == 2
    assert "right is a checkpoint folder" in capsys.readouterr().err
    assert main(["--drafter", str(DEMO / "drafter-sql"), "--drafter", "recycling"]) == 2
    assert "drafters recycling remember answers" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--check", "nowhere.json", "--alternations", "5"])
    assert "--alternations is 5; a baseline needs 27 or more" in capsys.readouterr().err
    assert main(["--workload", "mixed"]) == 2
    assert "give --corpus DIR" in capsys.readouterr().err
