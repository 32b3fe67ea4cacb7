"""The transport: a flow that keeps its limits, is as large as the smallest cut, and a bound that behaves like one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.rules.draft import normalised
from speculation.rules.optimal_transport import acceptance_bound, set_law, transport
from speculation.rules.shared_noise import bound

_WEIGHT = st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 0.5, 1.0, 1.0, 2.0, 7.0])
_ROW = st.lists(_WEIGHT, min_size=4, max_size=4).filter(any).map(lambda row: normalised(np.array(row)))


@settings(max_examples=60)
@given(_ROW, _ROW, st.integers(1, 4), st.booleans())
def test_the_flow_is_as_large_as_the_smallest_cut(p: np.ndarray, q: np.ndarray, k: int, replacement: bool) -> None:
    law = set_law(q, k, replacement=replacement)
    flow = transport(p, law)
    into = np.zeros(4)
    for drawn, amounts in flow.items():
        assert min(amounts.values()) >= 0.0
        assert sum(amounts.values()) <= law[drawn] + 1e-12
        for x, amount in amounts.items():
            into[x] += amount
    assert (into <= p + 1e-12).all()
    assert into.sum() == pytest.approx(acceptance_bound(p, q, k, replacement=replacement), abs=1e-12)


@given(_ROW, _ROW)
def test_one_draw_allows_one_minus_total_variation(p: np.ndarray, q: np.ndarray) -> None:
    for replacement in (True, False):
        assert acceptance_bound(p, q, 1, replacement=replacement) == pytest.approx(bound(p, q), abs=1e-12)


@settings(max_examples=40)
@given(_ROW, _ROW)
def test_more_draws_allow_more(p: np.ndarray, q: np.ndarray) -> None:
    for replacement in (True, False):
        bounds = [acceptance_bound(p, q, k, replacement=replacement) for k in (1, 2, 3, 4)]
        assert bounds == pytest.approx(sorted(bounds), abs=1e-12)


@given(_ROW, st.integers(1, 4), st.booleans())
def test_probabilities_of_sets(q: np.ndarray, k: int, replacement: bool) -> None:
    law = set_law(q, k, replacement=replacement)
    assert sum(law.values()) == pytest.approx(1.0)
    assert all(len(drawn) <= k for drawn in law)
    if not replacement:
        assert {len(drawn) for drawn in law} == {min(k, np.count_nonzero(q))}


def test_a_large_vocabulary_is_fine_for_the_bound_and_refused_for_sets() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5000)), rng.dirichlet(np.ones(5000))
    assert bound(p, q) < acceptance_bound(p, q, 4) < 1.0
    with pytest.raises(InvalidArgument, match="5000"):
        set_law(q, 2, replacement=True)
