"""Simulated fleets of many groups, and the commands that make them: `specfleet simulate` and `specfleet plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulator import agreement, plan
from benchmarks.simulator.__main__ import DEMO, main
from benchmarks.simulator.hardware import MODELS, hardware
from benchmarks.simulator.scenario import DrafterKind, Scenario, _arrivals, simulate
from benchmarks.traces.acceptance import AcceptanceModel, generate_requests, learned

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def model() -> AcceptanceModel:
    return learned(DEMO)


@pytest.fixture
def scenario(model: AcceptanceModel) -> Scenario:
    """Two groups, one of which has a drafter more than the other."""
    drafters = DrafterKind(model=MODELS["llama-68m"], on=hardware("rtx2080ti"), count=5, voices=model.drafters)
    return Scenario(
        target=MODELS["llama-3.1-70b"],
        on=hardware("4xh100"),
        drafters=(drafters,),
        num_groups=2,
        num_requests=21,
        num_tokens=(8, 24),
        together=4,
    )


def test_groups_in_processes_of_their_own_come_to_the_same(scenario: Scenario, model: AcceptanceModel) -> None:
    done: list[int] = []
    one = simulate(scenario, model, on_group=done.append)
    assert one == simulate(scenario, model, num_processes=2)
    assert done == [1, 2]
    assert [group.num_requests for group in one.groups] == [11, 10]
    assert [len(group.drafter_busy_s) for group in one.groups] == [3, 2]
    assert one.num_tokens == sum(group.num_tokens for group in one.groups)


def test_with_more_requests_than_it_can_serve_latency_grows(scenario: Scenario, model: AcceptanceModel) -> None:
    calm, flooded = (simulate(replace(scenario, rate=rate), model).mean_latency_s for rate in (1.0, 10_000.0))
    assert flooded > 1.2 * calm


def test_the_simulate_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["--requests", "12", "--tokens", "12", "--drafters", "2", "--together", "2", "--processes", "1"]
    assert main([*said, "--out", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    off, fleet = json.loads((tmp_path / "simulated.json").read_text())
    assert (off["mode"], fleet["mode"], off["num_tokens"]) == ("off", "fleet", 12 * 12)
    assert fleet["tokens_per_s"] > off["tokens_per_s"]
    assert f"| {fleet['tokens_per_s']:,.0f} |" in table
    assert (tmp_path / "simulated.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (["--on", "7xb9"], "7xb9"),
        (["--mode", "magic"], "magic"),
        (["--requests", "1", "--groups", "2"], "1 requests for 2 groups"),
        (["--drafters", "-8"], "[-8] drafters; right: 0 or more"),
        (["--tokens", "-1"], "answers of (-1,) tokens"),
        (["--prompt-tokens", "0"], "prompts of 0"),
        (["--rate", "inf"], "inf requests a second"),
    ],
)
def test_the_simulate_command_says_what_is_wrong(
    said: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(said) == 2
    assert wrong in capsys.readouterr().err


def test_a_plan_recommends_the_cheapest_fleet_that_is_quick_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["--rate", "100", "--tokens", "4", "--requests", "16"]
    assert plan.main([*said, "--counts", "1", "3", "--p95", "5", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert [each["drafters_per_group"] for each in found] == [0, 1, 3]
    (chosen,) = [each for each in found if each["is_recommended"]]
    assert chosen["dollars_per_hour"] == min(each["dollars_per_hour"] for each in found if each["is_quick_enough"])
    assert f"p95 {chosen['p95_latency_s']:.2f} s" in capsys.readouterr().out
    assert (tmp_path / "plan.png").read_bytes().startswith(PNG)
    # A verifier that costs nothing needs no drafters beside it.
    assert plan.main([*said, "--counts", "1", "--price", "h100=0"]) == 0
    assert "each with no drafters: $0.00 an hour" in capsys.readouterr().out


def test_a_group_is_sized_by_what_it_gives_when_it_is_full(tmp_path: Path) -> None:
    said = ["--rate", "100", "--tokens", "8", "--counts", "0", "--requests", "16"]
    assert plan.main([*said, "--out", str(tmp_path)]) == 0
    assert [each["num_groups"] for each in json.loads((tmp_path / "plan.json").read_text())] == [1]


def test_a_plan_says_where_no_fleet_is_quick_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--rate", "5", "--tokens", "6", "--counts", "1", "--requests", "16", "--p95", "0.001"]) == 1
    assert "No fleet answers 95 of 100 requests within 0.001 s" in capsys.readouterr().out
    for said, wrong in (
        (["--rate", "5", "--price", "h100=cheap"], "h100=cheap"),
        (["--rate", "inf"], "traffic of inf requests a second"),
        (["--rate", "5", "--p95", "nan"], "within nan s; right: above 0"),
    ):
        assert plan.main(said) == 2
        assert wrong in capsys.readouterr().err


def test_agreement_is_refused_without_what_calibrates_it(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--target", "none", "--drafter", "none", "--prompts", "none.jsonl", "--trace", "none.npz"]
    assert agreement.main([*files, "--mode", "off", "fleet"]) == 2
    assert "pearl at 1 is left out" in capsys.readouterr().err
    assert agreement.main([*files, "--together", "4"]) == 2
    assert "off and pearl at 1 is left out" in capsys.readouterr().err


def test_when_requests_come_says_nothing_of_what_they_are(scenario: Scenario, model: AcceptanceModel) -> None:
    drawn = generate_requests(model, 400, num_tokens=(8,), seed=scenario.seed)[0]
    gaps = np.diff([0.0, *_arrivals(replace(scenario, num_requests=400, rate=1.0))])
    assert abs(np.corrcoef(gaps, [model.domains.index(request.domain) for request in drawn])[0, 1]) < 0.1
