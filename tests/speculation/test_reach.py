"""Where the target waits, drafting goes on exactly where another step brings more than it costs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.reach import Reach
from speculation.reach import reach as reach_of
from tests.speculation.costs import Steps

AGREEMENTS, STEPS_S = st.floats(0.05, 0.95), st.floats(1e-4, 0.02)


def rounds_s(cost: Steps, num_sequences: int, max_draft: int) -> list[float]:
    return [cost.cost_s(num_sequences * (1 + num_nodes), 0) for num_nodes in range(max_draft + 1)]


def reach(agreement: float, step_s: float, cost: Steps, *, num_sequences: int = 1, max_draft: int = 8) -> Reach:
    return reach_of(
        agreement=agreement, step_s=step_s, link_s=0.0005, rounds_s=rounds_s(cost, num_sequences, max_draft)
    )


def length(agreement: float, least: float, max_draft: int) -> int:
    """Nodes of a chain by a drafter that is as sure as it is right, everywhere."""
    num_nodes, value = 1, agreement  # the first step is not asked about
    while num_nodes < max_draft and value >= least:
        num_nodes, value = num_nodes + 1, value * agreement
    return num_nodes


@settings(max_examples=50)
@given(agreement=AGREEMENTS, step_s=STEPS_S, row_s=st.floats(0.0, 0.01), num_sequences=st.sampled_from([1, 4, 16]))
def test_a_drafter_that_is_as_sure_as_it_is_right_drafts_the_best_length(
    agreement: float, step_s: float, row_s: float, num_sequences: int
) -> None:
    cost = Steps(base_s=0.02, flat_rows=0, row_s=row_s)

    def rate(num_nodes: int) -> float:
        tokens = sum(agreement**depth for depth in range(num_nodes + 1))
        return tokens / (0.0005 + num_nodes * step_s + cost.cost_s(num_sequences * (1 + num_nodes), 0))

    said = reach(agreement, step_s, cost, num_sequences=num_sequences)
    found = length(agreement, said.least_value, 8)
    best = max(range(1, 9), key=rate)
    assert rate(found) >= 0.995 * rate(best), (found, best)
    assert said.num_steps == best


@settings(max_examples=50)
@given(agreement=AGREEMENTS, step_s=STEPS_S)
def test_dearer_steps_and_dearer_rows_reach_less_far(agreement: float, step_s: float) -> None:
    cheap, dear = Steps(base_s=0.02, flat_rows=0, row_s=0.0), Steps(base_s=0.02, flat_rows=0, row_s=0.004)
    usual, dear_rows, dear_steps = (
        length(agreement, reach(agreement, each_s, cost).least_value, 8)
        for each_s, cost in ((step_s, cheap), (step_s, dear), (2 * step_s, cheap))
    )
    assert dear_rows <= usual
    assert dear_steps <= usual


def test_free_steps_go_on_and_a_drafter_that_is_never_right_does_not() -> None:
    flat = Steps(base_s=0.02, flat_rows=64, row_s=0.002)
    assert reach(0.9, 0.0, flat).least_value == 0.0
    assert reach(0.0, 0.001, flat).least_value > 0.9


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="agreement nan"):
        reach(float("nan"), 0.001, Steps(base_s=0.02, flat_rows=8, row_s=0.002))
