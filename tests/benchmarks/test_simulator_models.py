"""What simulated fleets are made of: step costs, shared cores, and guesses that nobody recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers.pearl import agreement_for
from benchmarks.papers.systems import Bench, chain
from benchmarks.simulator.cores import MeasuredSlowdown, SharedCores, Slowdown, fair_share
from benchmarks.simulator.events import Events
from benchmarks.simulator.hardware import DEVICES, MODELS, Hardware, analytic_cost, hardware
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine, linear_cost
from benchmarks.simulator.published import PUBLISHED
from benchmarks.traces.acceptance import AcceptanceModel, GeneratedSpeech, generate_requests, learned
from benchmarks.traces.replay import play_chain
from benchmarks.traces.speech import Place, RecordedSpeech
from benchmarks.traces.trace import Trace, read_trace
from contracts.clock import VirtualClock
from contracts.errors import InvalidArgument

DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "demo.npz"


@pytest.fixture(scope="module")
def trace() -> Trace:
    return read_trace(DATA)


@pytest.fixture(scope="module")
def model() -> AcceptanceModel:
    return learned(DATA)


# Step costs


def test_step_costs_are_near_those_that_were_published() -> None:
    for each in PUBLISHED:
        if not each.is_pcie:  # on those cards that program is slower than others are; docs/simulator.md
            assert abs(each.error) < 0.06, f"{each.model} on {each.on}"


@pytest.mark.parametrize("name", DEVICES)
def test_more_rows_and_more_keys_never_make_a_step_cheaper(name: str) -> None:
    cost = analytic_cost(MODELS["qwen3-0.6b"], Hardware(device=DEVICES[name]))
    rows, keys = np.array([1.0, 8.0, 64.0, 512.0]), np.array([1.0, 100.0, 10_000.0, 1_000_000.0])
    grid = np.array([[cost.cost_s(row, key) for key in keys] for row in rows])
    assert (np.diff(grid, axis=0) >= 0.0).all()
    assert (np.diff(grid, axis=1) >= 0.0).all()
    assert np.allclose(cost.costs_s(rows, keys), np.diag(grid))


def test_hardware_that_does_not_exist_or_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="4xh1000"):
        hardware("4xh1000")
    with pytest.raises(InvalidArgument, match="has 141 GB of weights; h100 has 80 GB"):
        analytic_cost(MODELS["llama-3.1-70b"], hardware("h100"))


# Shared cores


def ends(slowdown: Slowdown, works: list[tuple[float, float, int]]) -> list[float]:
    """When works of (start, seconds alone, threads) end."""
    clock = VirtualClock()
    events = Events(clock)
    cores = SharedCores(events, slowdown)
    ended = [0.0] * len(works)

    def begin(number: int) -> None:
        def done() -> None:
            ended[number] = clock.now_s()

        cores.run(works[number][1], done, num_threads=works[number][2])

    for number, (start_s, _, _) in enumerate(works):
        events.after(start_s, lambda number=number: begin(number))  # type: ignore[misc]
    while events.next():
        pass
    return ended


def test_work_that_meets_nobody_takes_as_long_as_alone() -> None:
    assert ends(fair_share(2), [(0.0, 1.0, 2), (1.0, 1.0, 1), (1.0, 2.0, 1)]) == pytest.approx([1.0, 2.0, 3.0])


def test_work_is_slowed_down_while_others_run_and_no_longer() -> None:
    # Two threads for 3 s; after 1 s another one for 1 s: three threads on two cores take one and a half times as long.
    assert ends(fair_share(2), [(0.0, 3.0, 2), (1.0, 1.0, 1)]) == pytest.approx([3.5, 2.5])


def test_a_measured_slowdown_is_met_where_it_was_measured_and_goes_on_beyond() -> None:
    slowdown = MeasuredSlowdown(of={(2, 1): 1.4, (2, 3): 2.0})
    assert [slowdown(2, others) for others in (0, 1, 2, 3)] == pytest.approx([1.0, 1.4, 1.7, 2.0])
    assert slowdown(2, 5) == pytest.approx(2.0 * 7 / 5)


# Guesses


def test_beyond_its_recorded_tree_a_drafter_says_what_it_said_further_on(trace: Trace) -> None:
    speech, request, drafter = RecordedSpeech(trace), trace.requests[0], trace.drafters[0]
    for index in range(len(request.answer)):
        tree = trace.tree(request, index, drafter)
        first = tuple((node.token, node.confidence) for node in tree if node.parent == -1)
        assert speech.said(request, drafter, Place(index)) == first
    assert speech.said(request, drafter, Place(len(request.answer))) == ()
    beside = Place(0).then(request, request.answer[0] + 1)
    made_up = speech.said(request, drafter, beside.then(request, 7))
    assert made_up
    assert made_up == speech.said(request, drafter, beside.then(request, 7))


def tokens_a_round(matches: list[list[bool]], length: int) -> float:
    rounds = [played for of in matches for played in play_chain(of, length)]
    return sum(tokens for _, tokens in rounds) / len(rounds)


def test_generated_guesses_come_in_runs_as_long_as_recorded_ones(trace: Trace, model: AcceptanceModel) -> None:
    greedy = [request for request in trace.requests if request.temperature == 0.0]
    requests, speech = generate_requests(model, 1500, num_tokens=[len(r.answer) for r in greedy], seed=3)
    errors: list[float] = []
    for drafter in trace.drafters:
        for domain in trace.domains:
            recorded = [trace.matches(request, drafter) for request in greedy if request.domain == domain]
            generated = [matches(speech, n, drafter, requests) for n, r in enumerate(requests) if r.domain == domain]
            errors += [tokens_a_round(generated, n) / tokens_a_round(recorded, n) - 1.0 for n in (2, 8)]
    assert max(map(abs, errors)) < 0.16
    assert abs(float(np.mean(errors))) < 0.04


def matches(speech: GeneratedSpeech, number: int, drafter: str, requests: list) -> list[bool]:  # type: ignore[type-arg]
    request = requests[number]
    said = [speech.said(request, drafter, Place(index)) for index in range(len(request.answer))]  # type: ignore[arg-type]
    return [bool(each) and each[0][0] == token for each, token in zip(said, request.answer, strict=True)]


def test_other_drafters_are_as_good_as_those_whose_voices_they_have(model: AcceptanceModel) -> None:
    sql, general = model.drafters[1], model.drafters[0]
    named = model.with_drafters({sql: general})
    assert (named.agreement[:, 0] == model.agreement[:, 0]).all()
    with pytest.raises(InvalidArgument, match="knows no drafter nobody"):
        model.with_drafters({sql: sql.__class__("nobody")})


def test_plain_speculation_is_as_fast_as_the_closed_form_says(model: AcceptanceModel) -> None:
    voice = model.drafters[0]
    right = agreement_for(1.89, 0.2, 5)
    assert (1.0 - right**6) / (1.0 - right) / 2.0 == pytest.approx(1.89)
    alike = replace(model.with_drafters({voice: voice}), of_request=0.0, memory=0.0)
    alike = alike.with_agreement([[right]] * len(alike.domains))
    requests, speech = generate_requests(alike, 12, num_tokens=(96,), num_prompt=8, seed=4)
    bench = Bench(
        speech=speech,
        requests=requests,
        num_warm=2,
        verifier=VerifierMachine(cost=linear_cost(base_s=0.1, row_s=0.0), link_s=0.0, handling_s=0.0),
        drafters=[DrafterMachine(drafter=voice, cost=linear_cost(base_s=0.02, row_s=0.0), link_s=0.0)],
    )
    run = bench.closed(chain("vanilla", 5), 1)
    assert run.num_tokens / run.num_parts == pytest.approx((1.0 - right**6) / (1.0 - right), rel=0.08)
    assert run.tokens_per_s == pytest.approx(1.89 / 0.1, rel=0.1)
