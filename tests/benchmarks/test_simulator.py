"""The service's scheduler between simulated workers, on recorded answers: what it promises holds on any machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers.systems import chain
from benchmarks.simulator.fleet import Simulated, SimulatedFleet
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine, linear_cost
from benchmarks.traces.speech import RecordedSpeech
from benchmarks.traces.trace import Request, Trace, TreeTable, read_trace

DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "demo.npz"
# Eight rows cost what one costs, as on machines that wait for memory.
WIDE = VerifierMachine(cost=linear_cost(base_s=0.02, row_s=0.0004, free_rows=8))
QUICK = linear_cost(base_s=0.001, row_s=0.00002)
NUM_REQUESTS = 20


@pytest.fixture(scope="module")
def trace() -> Trace:
    return read_trace(DATA)


@pytest.fixture(scope="module")
def requests(trace: Trace) -> list[Request]:
    """Of all domains, at temperature 0."""
    greedy = [request for request in trace.requests if request.temperature == 0.0]
    return greedy[:: len(greedy) // NUM_REQUESTS][:NUM_REQUESTS]


def worthless(trace: Trace) -> Trace:
    """The same, but every drafter says what belongs to another place."""
    trees = trace.trees
    rolled = (np.roll(each, 1777, axis=2) for each in (trees.tokens, trees.parents, trees.levels))
    return replace(trace, trees=TreeTable(*rolled))


def run(trace: Trace, requests: list[Request], mode: str, *, together: int = 1) -> Simulated:
    machines = [DrafterMachine(drafter=drafter, cost=QUICK, prefill_s_per_token=2e-5) for drafter in trace.drafters]
    return SimulatedFleet(RecordedSpeech(trace), WIDE, machines).run_closed(requests, mode=mode, together=together)


def test_it_is_the_same_every_time_and_says_what_was_recorded(trace: Trace, requests: list[Request]) -> None:
    first, second = (run(trace, requests, "fleet", together=4) for _ in range(2))
    assert first == second
    assert first.num_tokens == sum(len(request.answer) for request in requests)


def test_the_verifier_hardly_ever_waits(trace: Trace, requests: list[Request]) -> None:
    alone = run(trace, requests, "off")
    assert alone.tokens_per_round == 1.0
    assert alone.idle_share < 0.02
    assert alone.num_unasked > 0.95 * alone.num_rounds - NUM_REQUESTS
    assert run(trace, requests, "off", together=5).idle_share < 0.03


def test_speculation_pays_where_rows_are_cheap(trace: Trace, requests: list[Request]) -> None:
    plain = run(trace, requests, "off").tokens_per_s
    for mode, least in (("vanilla", 2.1), ("pearl", 2.3), ("fleet", 2.3)):
        assert run(trace, requests, mode).tokens_per_s > least * plain, mode


def test_drafts_that_are_worth_nothing_cost_next_to_nothing(trace: Trace, requests: list[Request]) -> None:
    plain = run(trace, requests, "off").tokens_per_s
    assert run(worthless(trace), requests, "fleet").tokens_per_s > 0.97 * plain


def test_a_row_of_a_prompt_pays_for_the_keys_that_are_there(trace: Trace, requests: list[Request]) -> None:
    count = 4000
    request = replace(requests[0], prompt=(1,) * count)
    by_key = linear_cost(base_s=0.0, row_s=0.0, key_s=1e-9)
    verifier = VerifierMachine(cost=by_key, link_s=0.0, handling_s=0.0, max_context=8192)
    drafter = DrafterMachine(drafter=trace.drafters[0], cost=by_key, link_s=0.0)
    fleet = SimulatedFleet(RecordedSpeech(trace), verifier, [drafter])
    read_s = 1e-9 * count * (count + 1) / 2
    assert fleet.run_closed([request], mode="off", together=1).first_token_s[0] == pytest.approx(read_s, rel=1e-3)
    drafted = fleet.run_closed([request], mode=chain("one", 1).parts, together=1)
    assert read_s < drafted.drafter_busy_s[drafter.drafter] < 1.1 * read_s
