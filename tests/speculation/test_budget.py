"""The budget: the best set of nodes there is, floors first, and better than every fixed length under simulation.

The simulation draws for every sequence and round a chain of draft nodes with confidences that vary (between sequences,
along a text, with depth), and what the target decides about them: each node with the chance it claims. These are the
recorded acceptances; every policy is run on the same ones.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, SequenceId
from speculation.budget import Ready, RoundBudget, RoundPlan, tokens_needed
from speculation.cost import CostTable, StepCost, probe_plan
from speculation.tree import TokenTree
from tests.speculation.costs import Steps

MAX_ROWS = 512
DEPTH = 12
CONTEXT = 300


def measured() -> CostTable:
    """A table as probes make it of a noisy machine: flat to 8 rows, then linear."""
    table, rng = CostTable(), random.Random(3)
    truth = Steps(base_s=0.02, flat_rows=8, row_s=0.0016, key_s=2e-8)
    for rows, keys in probe_plan(MAX_ROWS, 600):
        for _ in range(5):
            table.add(rows, rows * keys, truth.cost_s(rows, rows * keys) * rng.lognormvariate(0.0, 0.03))
    return table


TABLES: dict[str, StepCost] = {
    "flat to 8, then linear": Steps(base_s=0.02, flat_rows=8, row_s=0.0016),
    "measured": measured(),
    "every row costs": Steps(base_s=0.015, flat_rows=0, row_s=0.002),
    "stairs": Steps(base_s=0.02, flat_rows=16, row_s=0.001, stair=16),
    "nearly free": Steps(base_s=0.03, flat_rows=128, row_s=0.0005),
}


@dataclass
class Node:
    id: int
    value: float


@dataclass
class Chain:
    """One sequence's draft nodes in one round, and how many of them the target accepts."""

    values: list[float]
    num_accepted: int

    def nodes(self) -> list[Node]:
        return [Node(index, value) for index, value in enumerate(self.values)]


def recorded(num_sequences: int, num_rounds: int, seed: int, *, worthless: bool = False) -> list[list[Chain]]:
    rng = random.Random(seed)
    levels = [0.0 if worthless else rng.betavariate(5, 2.5) for _ in range(num_sequences)]
    return [[chain(rng, level) for level in levels] for _ in range(num_rounds)]


def chain(rng: random.Random, level: float) -> Chain:
    value, values, num_accepted, alive = 1.0, [], 0, True
    for _ in range(DEPTH):
        confidence = min(max(rng.gauss(level, 0.2), 0.01), 0.99) if level > 0.0 else 0.01
        value *= confidence
        values.append(value)
        alive = alive and level > 0.0 and rng.random() < confidence
        num_accepted += alive
    return Chain(values, num_accepted)


def by_budget(rounds: list[list[Chain]], cost: StepCost) -> float:
    """Committed tokens per second."""
    budget, tokens, time_s = RoundBudget(max_rows=MAX_ROWS), 0.0, 0.0
    for chains in rounds:
        ready = [Ready(sequence=name(i), context=CONTEXT, nodes=c.nodes()) for i, c in enumerate(chains)]
        plan = budget.choose(ready, cost)
        lengths = [len(plan.nodes[name(i)]) for i in range(len(chains))]
        tokens += sum(1 + min(c.num_accepted, length) for c, length in zip(chains, lengths, strict=True))
        time_s += cost.cost_s(plan.num_rows, plan.num_context)
    return tokens / time_s


def by_length(rounds: list[list[Chain]], cost: StepCost, length: int) -> float:
    tokens, time_s = 0.0, 0.0
    for chains in rounds:
        tokens += sum(1 + min(c.num_accepted, length) for c in chains)
        rows, nodes = len(chains) * (1 + length), len(chains) * length
        time_s += cost.cost_s(rows, rows * CONTEXT + nodes)
    return tokens / time_s


def name(index: int) -> SequenceId:
    return SequenceId(f"s{index}")


@pytest.mark.parametrize("table", TABLES)
def test_beats_the_best_fixed_length_at_every_load(table: str) -> None:
    cost = TABLES[table]
    gains = []
    for load in [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64]:
        rounds = recorded(load, max(1000 // load, 20), seed=load)
        best = max(by_length(rounds, cost, length) for length in range(DEPTH + 1))
        gains.append(by_budget(rounds, cost) / best)
    # Where all there is to check is free (a few sequences, a flat table) the best is to check all of it: a tie.
    assert min(gains) > 0.998, gains
    assert sum(gain > 1.002 for gain in gains) >= len(gains) // 2, gains
    assert sum(gains) / len(gains) > 1.02, gains


@pytest.mark.parametrize("table", TABLES)
def test_worthless_drafts_cost_less_than_one_percent(table: str) -> None:
    cost = TABLES[table]
    for load in (1, 4, 16, 64):
        rounds = recorded(load, 40, seed=load, worthless=True)
        assert by_budget(rounds, cost) >= 0.99 * by_length(rounds, cost, 0)


def plan_of(chains: list[list[float]], cost: StepCost, **more: float) -> RoundPlan:
    ready = [
        Ready(sequence=name(i), context=10, nodes=[Node(n, v) for n, v in enumerate(values)])
        for i, values in enumerate(chains)
    ]
    return RoundBudget(max_rows=int(more.get("max_rows", 64)), steadiness=0.0, caution=0.0).choose(ready, cost)


@settings(max_examples=150)
@given(
    st.lists(st.lists(st.floats(0.2, 1.0), max_size=4), min_size=1, max_size=3),
    st.integers(0, 6),
    st.floats(0.0, 0.02),
    st.integers(1, 4),
)
def test_no_other_choice_has_a_higher_rate(drawn: list[list[float]], flat: int, row_s: float, stair: int) -> None:
    cost = Steps(base_s=0.02, flat_rows=flat, row_s=row_s, stair=stair)
    chains = [list(itertools.accumulate(chain, lambda a, b: a * b)) for chain in drawn]
    plan = plan_of(chains, cost)
    best = max(
        (len(chains) + sum(sum(c[:n]) for c, n in zip(chains, lengths, strict=True)))
        / cost.cost_s(len(chains) + sum(lengths), 0)
        for lengths in itertools.product(*(range(len(c) + 1) for c in chains))
    )
    assert plan.tokens_per_s == pytest.approx(best)
    for index, ids in enumerate(plan.nodes.values()):
        assert ids == tuple(range(len(ids))), f"frontier of {index} is not connected"


def test_a_dip_does_not_stop_the_search() -> None:
    cost = Steps(base_s=0.01, flat_rows=1, row_s=0.001, stair=12)
    assert len(plan_of([[0.95**n for n in range(1, 13)]], cost).nodes[name(0)]) == 12


def test_near_certainty_is_taken_for_a_little_less_than_it_claims() -> None:
    dear = Steps(base_s=0.0, flat_rows=0, row_s=0.01)  # a row pays from a value of 1 on
    ready = [Ready(sequence=name(0), context=10, nodes=[Node(0, 0.99)])]
    free = Steps(base_s=0.01, flat_rows=2, row_s=0.01)
    assert RoundBudget(max_rows=8).choose(ready, free).expected_tokens == pytest.approx(1.99)  # what it claims
    almost = Steps(base_s=0.01, flat_rows=1, row_s=0.0097)
    assert RoundBudget(max_rows=8, caution=0.0).choose(ready, almost).num_rows == 2
    assert RoundBudget(max_rows=8).choose(ready, almost).num_rows == 1
    assert RoundBudget(max_rows=8).choose(ready, dear).num_rows == 1


def test_floors_come_first_and_priorities_before_them() -> None:
    dear = Steps(base_s=0.001, flat_rows=0, row_s=0.01)
    nodes = [Node(n, 0.5 ** (n + 1)) for n in range(6)]
    calm = Ready(sequence=name(0), context=10, nodes=nodes)
    pressed = Ready(sequence=name(1), context=10, nodes=nodes, needed_tokens=1.7)
    plan = RoundBudget(max_rows=64).choose([calm, pressed], dear)
    assert [len(plan.nodes[name(i)]) for i in range(2)] == [0, 2]
    dearest = Ready(sequence=name(2), context=10, nodes=nodes, needed_tokens=1.7, priority=1)
    plan = RoundBudget(max_rows=5).choose([calm, pressed, dearest], dear)
    assert [len(plan.nodes[name(i)]) for i in range(3)] == [0, 0, 2]
    assert tokens_needed(num_committed=10, elapsed_s=1.0, round_s=0.1, s_per_token=0.1) == pytest.approx(1.0)
    assert tokens_needed(num_committed=20, elapsed_s=1.0, round_s=0.1, s_per_token=0.1) == 0.0


def test_limits_hold_and_who_has_no_room_waits() -> None:
    free = Steps(base_s=0.01, flat_rows=10_000, row_s=0.0)
    nodes = [Node(n, 0.9 ** (n + 1)) for n in range(40)]
    ready = [Ready(sequence=name(i), context=10, nodes=nodes, max_nodes=3) for i in range(4)]
    plan = RoundBudget(max_rows=64).choose(ready, free)
    assert [len(ids) for ids in plan.nodes.values()] == [3] * 4
    plan = RoundBudget(max_rows=10).choose(ready, free)
    assert plan.num_rows == 10
    plan = RoundBudget(max_rows=3).choose(ready, free)
    assert plan.waiting == (name(3),)
    assert RoundBudget(max_rows=3).choose([], free).nodes == {}


def test_noise_in_costs_does_not_make_frontiers_flap() -> None:
    rng, nodes = random.Random(1), [Node(n, 0.9 ** (n + 1)) for n in range(40)]

    def lengths(steadiness: float) -> list[int]:
        budget, found = RoundBudget(max_rows=64, steadiness=steadiness), []
        for _ in range(60):
            cost = Steps(base_s=0.02, flat_rows=0, row_s=0.002 * rng.lognormvariate(0.0, 0.15))
            plan = budget.choose([Ready(sequence=name(0), context=10, nodes=nodes)], cost)
            found.append(len(plan.nodes[name(0)]))
        return found

    def changes(found: list[int]) -> int:
        return sum(a != b for a, b in itertools.pairwise(found))

    assert changes(lengths(0.005)) < 0.3 * changes(lengths(0.0))


def test_takes_token_trees() -> None:
    tree = TokenTree(next_position=5)
    drafter = DrafterId("d")
    first = tree.add_path(-1, [1, 2], [0.9, 0.8], drafter)
    other = tree.add(-1, 3, 0.05, drafter)
    cost = Steps(base_s=0.02, flat_rows=3, row_s=0.05)
    plan = RoundBudget(max_rows=8).choose([Ready(sequence=name(0), context=5, nodes=tree.by_value())], cost)
    assert plan.nodes[name(0)] == tuple(first)
    assert other not in plan.nodes[name(0)]
    assert plan.expected_tokens == pytest.approx(1 + 0.9 + 0.72)
    assert tree.frontier_of(plan.nodes[name(0)]).ids == tuple(first)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        plan_of([[float("nan")]], TABLES["stairs"])
    with pytest.raises(InvalidArgument):
        RoundBudget(max_rows=0)
