"""Go now or wait: waits exactly where that commits more tokens per second."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.waiting import Due, wait_s
from tests.speculation.costs import Steps

FLAT = Steps(base_s=0.02, flat_rows=8, row_s=0.002)
DUES = st.lists(
    st.builds(Due, in_s=st.floats(0, 0.1), tokens=st.floats(0, 5), num_rows=st.integers(0, 8), chance=st.floats(0, 1)),
    max_size=5,
)


def test_a_little_patience_for_a_lot_and_none_for_a_little() -> None:
    lot, little = Due(in_s=0.005, tokens=3.0, num_rows=5), Due(in_s=0.015, tokens=0.3, num_rows=3)
    assert wait_s(ready_tokens=1.0, num_rows=1, num_context=100, due=[lot], cost=FLAT) == 0.005
    assert wait_s(ready_tokens=1.0, num_rows=1, num_context=100, due=[little], cost=FLAT) == 0.0
    assert wait_s(ready_tokens=1.0, num_rows=1, num_context=100, due=[little], cost=FLAT, busy_s=0.02) == 0.015
    assert wait_s(ready_tokens=1.0, num_rows=1, num_context=100, due=[], cost=FLAT) == 0.0


def test_an_unreliable_drafter_cannot_hold_a_round() -> None:
    due = Due(in_s=0.005, tokens=3.0, num_rows=5, chance=0.05)
    assert wait_s(ready_tokens=1.0, num_rows=1, num_context=100, due=[due], cost=FLAT) == 0.0
    far = Due(in_s=0.5, tokens=1000.0, num_rows=5)
    assert wait_s(ready_tokens=1.0, num_rows=1, num_context=100, due=[far], cost=FLAT, max_wait_s=0.1) == 0.0


@given(DUES, st.floats(0, 0.05))
@example(
    [Due(in_s=at_s, tokens=t, num_rows=n) for at_s, t, n in ((0.06, 1.0, 5), (0.06, 0.0, 1), (0.03, 2.0, 6))], 0.047
)
def test_no_other_moment_is_better(dues: list[Due], busy_s: float) -> None:
    def rate(moment: float) -> float:
        here = [due for due in dues if due.in_s <= moment]
        rows = 1 + sum(due.num_rows for due in here)
        tokens = 1.0 + sum(due.chance * due.tokens for due in here)
        return tokens / (max(moment, busy_s) + FLAT.cost_s(rows, 100))

    chosen = wait_s(
        ready_tokens=1.0, num_rows=1, num_context=100, due=dues, cost=FLAT, busy_s=busy_s, margin=0.0, max_wait_s=0.2
    )
    assert chosen == 0.0 or chosen in [due.in_s for due in dues]
    at_zero = 1.0 / (busy_s + FLAT.cost_s(1, 100))
    reached = max(rate(chosen), at_zero) if chosen == 0.0 else rate(chosen)
    later = max((rate(due.in_s) for due in dues if due.in_s > 0.0), default=0.0)
    assert reached >= later - 1e-9


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Due(in_s=-1.0, tokens=1.0, num_rows=1)
