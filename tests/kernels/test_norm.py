"""RMSNorm: right, and each row by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.norm import rms_norm, rms_norm_reference
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

EPS = 1e-6


def exact_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    size=st.one_of(st.integers(1, 70), st.sampled_from([192, 1000, 1024])),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e3, 1e15]),
    dtype=st.sampled_from(DTYPES),
    name=st.sampled_from(FORMS),
    seed=st.integers(0, 2**30),
)
def test_exact_up_to_rounding(rows: int, size: int, scale: float, dtype: torch.dtype, name: str, seed: int) -> None:
    x, weight = normal(rows, size, seed=seed) * scale, normal(size, seed=seed + 1)
    with form(name):
        y = rms_norm(x, weight, EPS, dtype)
    assert y.dtype == dtype
    # 1e-6 is some eight float32 roundings; leaving out one element of a thousand is off by 5e-4.
    assert_close(y, exact_norm(x, weight), rtol=1e-6 + ROUNDING[dtype])


def test_native_is_within_a_few_roundings_of_the_reference() -> None:
    require_library()
    x, weight = normal(13, 77, seed=0), normal(77, seed=1)
    reference = rms_norm_reference(x, weight, EPS, torch.float32).double()
    assert_close(rms_norm(x, weight, EPS, torch.float32), reference, rtol=1e-6)


@settings(max_examples=20)
@given(
    rows=st.integers(2, 20),
    size=st.integers(1, 200),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**30),
)
def test_rows_do_not_depend_on_their_neighbours(rows: int, size: int, dtype: torch.dtype, seed: int) -> None:
    require_library()
    x, weight = normal(rows, size, seed=seed), normal(size, seed=seed + 1)
    x[0] *= 1e12
    assert dependent_rows(lambda some: rms_norm(some, weight, EPS, dtype), x, seed) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_rows_shared_among_threads_do_not_depend_on_them(dtype: torch.dtype) -> None:
    require_library()
    weight = normal(9000, seed=0)
    assert dependent_rows(lambda some: rms_norm(some, weight, EPS, dtype), normal(15, 9000, seed=1), seed=2) == []


def test_an_ordinary_sum_is_caught() -> None:
    """A mean taken by a product with ones chooses its order by the number of rows; the check above must see that."""
    x, ones = normal(12, 300, seed=0), torch.full((300, 64), 1 / 300)
    assert dependent_rows(lambda rows: rows * torch.rsqrt(rows.pow(2) @ ones)[:, :1], x, seed=1) != []


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_row_reaches_no_other_and_stays_bad(name: str) -> None:
    x, weight = normal(5, 35, seed=0), normal(35, seed=1)
    with form(name):
        clean, dirty = (rms_norm(y, weight, EPS, torch.bfloat16) for y in (x, with_bad_row(x, 2)))
    others = [0, 1, 3, 4]
    assert same_bits(clean[others], dirty[others])
    assert dirty[2].isnan().all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert torch.equal(rms_norm(torch.zeros(2, 19), torch.ones(19), EPS, torch.float32), torch.zeros(2, 19))
