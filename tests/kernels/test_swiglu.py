"""silu(gate) * up: right, and each row by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.swiglu import swiglu, swiglu_reference
from tests.kernels.rig import (
    DTYPES,
    FORMS,
    ROUNDING,
    assert_close,
    dependent_rows,
    form,
    normal,
    require_library,
    same_bits,
    with_bad_row,
)


def exact_swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 90),
    scale=st.sampled_from([1e-4, 1.0, 20.0, 80.0]),
    dtype=st.sampled_from(DTYPES),
    name=st.sampled_from(FORMS),
    seed=st.integers(0, 2**30),
)
def test_exact_up_to_rounding(rows: int, size: int, scale: float, dtype: torch.dtype, name: str, seed: int) -> None:
    gate_up = normal(rows, 2 * size, seed=seed) * scale
    with form(name):
        y = swiglu(gate_up, dtype)
    assert (y.dtype, y.shape) == (dtype, (rows, size))
    # Beyond -87 the exponential leaves float32, and what is left of gate * up is below 1e-30.
    assert_close(y, exact_swiglu(gate_up), rtol=1.5e-6 + ROUNDING[dtype], atol=1e-30)


def test_native_is_within_a_few_roundings_of_the_reference() -> None:
    require_library()
    gate_up = torch.linspace(-60, 60, 2 * 1001).view(2, 1001)[:, torch.randperm(1001, generator=torch.manual_seed(0))]
    gate_up = gate_up.repeat(1, 2)
    reference = swiglu_reference(gate_up, torch.float32).double()
    assert_close(swiglu(gate_up, torch.float32), reference, rtol=1.5e-6, atol=1e-30)


@settings(max_examples=20)
@given(rows=st.integers(2, 20), size=st.integers(1, 90), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**30))
def test_rows_do_not_depend_on_their_neighbours(rows: int, size: int, dtype: torch.dtype, seed: int) -> None:
    require_library()
    gate_up = normal(rows, 2 * size, seed=seed) * 10
    assert dependent_rows(lambda some: swiglu(some, dtype), gate_up, seed) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_rows_shared_among_threads_do_not_depend_on_them(dtype: torch.dtype) -> None:
    require_library()
    assert dependent_rows(lambda some: swiglu(some, dtype), normal(15, 2 * 8200, seed=0), seed=1) == []


def test_a_row_scaled_by_its_neighbours_is_caught() -> None:
    assert dependent_rows(lambda rows: rows.softmax(0), normal(4, 6, seed=0), seed=1) != []


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_row_reaches_no_other_and_stays_bad(name: str) -> None:
    gate_up = normal(5, 70, seed=0)
    with form(name):
        clean, dirty = (swiglu(x, torch.float32) for x in (gate_up, with_bad_row(gate_up, 2)))
    others = [0, 1, 3, 4]
    assert same_bits(clean[others], dirty[others])
    assert not dirty[2].isfinite().any()


def test_far_ends_are_zero_and_the_gate_itself() -> None:
    gate = torch.tensor([-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
    y = swiglu(torch.cat([gate, torch.ones(6)])[None], torch.float32)[0]
    assert torch.equal(y[3:], gate[3:])
    assert y[:3].abs().max() < 1e-7
