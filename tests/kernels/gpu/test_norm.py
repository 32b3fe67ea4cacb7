"""RMSNorm on a GPU, in the interpreter."""

from __future__ import annotations

import pytest
import torch

from kernels.norm import add_rms_norm, add_rms_norm_reference, rms_norm
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, ROUNDING, assert_close, dependent_rows, normal, same_bits, with_bad_row

EPS = 1e-6


def check(rows: int, size: int, dtype: torch.dtype, scale: float = 1.0) -> None:
    """Alone and after adding, which float32 does exactly as torch does. An element of a thousand is 5e-4."""
    x, delta, weight = normal(rows, size, seed=0) * scale, normal(rows, size, seed=1) * scale, normal(size, seed=2)
    with interpreter():
        alone = rms_norm(x, weight, EPS, dtype)
        stream = x.clone()
        after = add_rms_norm(stream, delta, weight, EPS, dtype)
    assert same_bits(stream, x + delta)
    for found, numbers in ((alone, x.double()), (after, stream.double())):
        assert found.dtype == dtype
        exact = numbers / (numbers.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
        assert_close(found, exact, rtol=1e-6 + ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "size", "scale"), [(1, 1, 1.0), (3, 77, 1e-12), (2, 4096, 1e15), (5, 1000, 1.0)], ids=str
)
def test_exact_up_to_rounding(rows: int, size: int, scale: float, dtype: torch.dtype) -> None:
    check(rows, size, dtype, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_neighbours(dtype: torch.dtype) -> None:
    x, weight = normal(6, 70, seed=0), normal(70, seed=1)
    with interpreter():
        assert dependent_rows(lambda some: rms_norm(some, weight, EPS, dtype), x, 0, num_groups=2) == []
        clean, dirty = (rms_norm(y, weight, EPS, dtype) for y in (x, with_bad_row(x, 2)))
    assert same_bits(clean[[0, 1, 3, 4, 5]], dirty[[0, 1, 3, 4, 5]])
    assert dirty[2].isnan().all()


def test_adding_is_the_same_on_the_cpu() -> None:
    x, delta, weight = normal(4, 33, seed=0), normal(4, 33, seed=1), normal(33, seed=2)
    streams = [x.clone(), x.clone()]
    found = add_rms_norm(streams[0], delta, weight, EPS, torch.float32)
    assert_close(found, add_rms_norm_reference(streams[1], delta, weight, EPS, torch.float32).double(), rtol=1e-6)
    assert same_bits(streams[0], streams[1])


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    x, weight = normal(2, 8, seed=0), normal(8, seed=1)
    with pytest.raises(ValueError, match=r"float32 \[rows, size\], got torch.bfloat16 \(2, 8\)"):
        rms_norm(x.bfloat16(), weight, EPS, torch.float32)
    with pytest.raises(ValueError, match=r"weight must be contiguous float32 \[8\], got torch.float32 \(7,\)"):
        rms_norm(x, weight[:7], EPS, torch.float32)
    with pytest.raises(ValueError, match=r"delta must be contiguous float32 \[2, 8\], got torch.float32 \(1, 8\)"):
        add_rms_norm(x, x[:1], weight, EPS, torch.float32)
