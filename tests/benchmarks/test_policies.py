"""Routing, budget and fusion on recorded requests of the demo models (`benchmarks/data/demo.npz`): what was promised.

The trace holds what real drafters said and what their target answered, so these are real acceptances, and the same
ones every time. Prompts are of `test` splits; but for the budget's caution, nothing was
tuned on them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.policies.__main__ import main
from benchmarks.policies.fusing import Who, per_round, routed
from benchmarks.policies.rounds import by_budget, chains_per_s, taught, tokens_per_s
from benchmarks.policies.routing import RoutedFleet, hits
from benchmarks.policies.stream import best_of_domains, cost_of, mixed
from benchmarks.traces.replay import play_chain
from benchmarks.traces.trace import Request, Trace, read_trace
from contracts.types import DrafterId
from speculation.cost import CostTable
from speculation.roster import Roster

TRACE = Path(__file__).parents[2] / "benchmarks" / "data" / "demo.npz"
GENERAL, SQL, DATA2TEXT = (DrafterId(f"drafter-{name}") for name in ("general", "sql", "data2text"))
LOADS = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return read_trace(TRACE)


@pytest.fixture(scope="module")
def stream(trace: Trace) -> list[Request]:
    return mixed(trace, 0.0, seed=1)


@pytest.fixture(scope="module")
def best(trace: Trace, stream: list[Request]) -> dict[str, DrafterId]:
    return best_of_domains(trace, stream)


# Routing


@pytest.fixture(scope="module")
def experienced(trace: Trace, stream: list[Request], best: dict[str, DrafterId]) -> RoutedFleet:
    """A fleet that has served 200 requests, and found who is good at what."""
    fleet = RoutedFleet(trace, num_followers=len(trace.drafters), seed=1)
    found = hits(fleet, stream[:200], best)
    assert sum(found[150:]) / 50 >= 0.85
    assert sum(found[:50]) / 50 < 0.75, "it knew before it could: the oracle must be leaking"
    return fleet


def test_the_oracle_has_work_for_specialists(best: dict[str, DrafterId]) -> None:
    assert len(set(best.values())) == 6
    assert best["math"] == best["python"] == GENERAL


def test_most_requests_are_on_the_best_drafter_within_200_and_stay_there(
    experienced: RoutedFleet, stream: list[Request], best: dict[str, DrafterId]
) -> None:
    found = hits(deepcopy(experienced), stream[200:], best)
    assert sum(found) / len(found) >= 0.85


@pytest.mark.parametrize("change", ["worse", "slower"])
def test_a_drafter_that_changes_is_ranked_anew_within_50_requests(
    experienced: RoutedFleet, trace: Trace, stream: list[Request], best: dict[str, DrafterId], change: str
) -> None:
    fleet, now = deepcopy(experienced), best | {"data2text": GENERAL}
    if change == "worse":
        fleet.voice_of[DATA2TEXT] = SQL  # a checkpoint replaced under the same name
        assert best_of_domains(trace, stream, voice_of=fleet.voice_of) == now
    else:
        fleet.slower[DATA2TEXT] = 2.0 * fleet.round_s / 5e-4  # one step takes longer than a round
    hits(fleet, stream[200:250], now)
    later = [request for request in stream[250:] if request.domain == "data2text"]
    # Two forms of prompt of one domain are learned apart, and one of them may not have come since the change.
    assert sum(hits(fleet, later, now)) >= 0.8 * len(later)


# Budget


@pytest.fixture(scope="module")
def cost(trace: Trace) -> CostTable:
    return cost_of(trace)


@pytest.fixture(scope="module")
def knowing(trace: Trace, stream: list[Request], best: dict[str, DrafterId]) -> dict[bool, Roster]:
    """What calibration learned from drafts that were worthless, or not."""
    return {worthless: taught(trace, stream[:60], best, worthless=worthless) for worthless in (False, True)}


Rate = Callable[..., float]


@pytest.fixture(scope="module")
def rate(
    trace: Trace,
    stream: list[Request],
    best: dict[str, DrafterId],
    knowing: dict[bool, Roster],
    cost: CostTable,
) -> Rate:
    def of(load: int, *, worthless: bool = False) -> float:
        return tokens_per_s(
            trace,
            stream[60:],
            best,
            deepcopy(knowing[worthless]),
            by_budget(),
            cost,
            load=load,
            num_rounds=max(600 // load, 20),
            worthless=worthless,
        )

    return of


@pytest.mark.parametrize("load", LOADS)
def test_the_budget_beats_the_best_fixed_length(
    trace: Trace, stream: list[Request], best: dict[str, DrafterId], cost: CostTable, rate: Rate, load: int
) -> None:
    num_rounds = max(600 // load, 20)
    chains = [
        chains_per_s(trace, stream[60:], best, length, cost, load=load, num_rounds=num_rounds) for length in range(9)
    ]
    assert rate(load) >= max(chains)


@pytest.mark.parametrize("load", [1, 8, 64])
def test_worthless_drafts_cost_less_than_one_percent(
    trace: Trace, stream: list[Request], best: dict[str, DrafterId], cost: CostTable, rate: Rate, load: int
) -> None:
    plain = chains_per_s(trace, stream[60:], best, 0, cost, load=load, num_rounds=max(600 // load, 20))
    assert rate(load, worthless=True) >= 0.99 * plain


# Fusion


def test_fused_drafters_commit_more_than_the_best_single_one(trace: Trace, stream: list[Request]) -> None:
    chains = {
        drafter: fmean(n for request in stream for _, n in play_chain(trace.matches(request, drafter), 4))
        for drafter in trace.drafters
    }
    assert max(chains, key=lambda drafter: chains[drafter]) == GENERAL

    def committed(who: Who | tuple[DrafterId, ...]) -> float:
        return per_round(trace, stream[:130], who, num_nodes=4, num_taught=70)

    alone = committed((GENERAL,))
    assert committed(routed(2)) >= 1.03 * alone
    assert committed(routed(3)) >= 1.03 * alone
    # Four of six do not know the subject of a prompt: they must not push out those that do.
    assert committed(trace.drafters) >= 1.03 * alone


def test_a_file_that_is_no_trace_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--trace", str(tmp_path / "none.npz")]) == 2
    assert "is no trace" in capsys.readouterr().err
