"""Counting larger logits and moving rows together: on the CPU, and on a GPU in the interpreter."""

from __future__ import annotations

import contextlib

import pytest
import torch

from kernels.pruning import compact_rows, compact_rows_reference, count_larger
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, normal, same_bits


def check_count(*, on_gpu: bool = True) -> None:
    """Over the end of a block, with equals, which are not larger."""
    logits = normal(3, 4100, seed=0).round(decimals=2)
    rows, tokens = torch.tensor([2, 0, 2, 1]), torch.tensor([4099, 0, 77, 5])
    values = logits[rows, tokens]
    with interpreter() if on_gpu else contextlib.nullcontext():
        found = count_larger(logits, rows, values)
    assert found.dtype == torch.int32
    expected = [sum(x > value for x in logits[row].tolist()) for row, value in zip(rows, values.tolist(), strict=True)]
    assert found.tolist() == expected


def check_compact(num_rows: int, size: int, dtype: torch.dtype) -> None:
    x, keep = normal(num_rows, size, seed=1, dtype=dtype), normal(num_rows, seed=size) > 0
    with interpreter():
        found = compact_rows(x, keep)
    expected = compact_rows_reference(x, keep)
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))
    assert found[1][: int(found[2])].tolist() == [row for row in range(num_rows) if keep[row]]


@pytest.mark.parametrize("on_gpu", [True, False])
def test_counts(on_gpu: bool) -> None:
    check_count(on_gpu=on_gpu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), [(1, 1), (9, 1025), (17, 3)])
def test_rows_that_stay_come_together_in_order(num_rows: int, size: int, dtype: torch.dtype) -> None:
    check_compact(num_rows, size, dtype)


@pytest.mark.parametrize("stays", [True, False])
def test_all_or_none(stays: bool) -> None:
    x = normal(3, 5, seed=0)
    with interpreter():
        kept, numbers, count = compact_rows(x, torch.full((3,), stays))
    assert same_bits(kept, x if stays else torch.zeros_like(x))
    assert (numbers.tolist(), count.tolist()) == (([0, 1, 2], [3]) if stays else ([-1, -1, -1], [0]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keep must be contiguous bool \[2\], got torch.int64 \(2,\)"):
        compact_rows(torch.zeros(2, 3), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"values must be contiguous float32 \[2\], got torch.float32 \(1,\)"):
        count_larger(torch.zeros(2, 3), torch.tensor([1, 0]), torch.zeros(1))
