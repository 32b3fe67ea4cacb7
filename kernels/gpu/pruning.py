"""Early pruning on the device: how many logits are larger, and the rows that stay moved together."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["compact_rows", "count_larger"]

_COUNT_BLOCK = 4096
_COPY_BLOCK = 1024


def count_larger(
    logits: torch.Tensor,  # [rows, size] float32
    rows: torch.Tensor,  # [n] integers
    values: torch.Tensor,  # [n] float32
) -> torch.Tensor:
    """For each i how many of logits[rows[i]] are larger than values[i]: int32 [n]."""
    counts = torch.zeros(rows.shape[0], dtype=torch.int32, device=logits.device)
    size = logits.shape[1]
    if rows.shape[0]:
        _count_larger[(rows.shape[0], triton.cdiv(size, _COUNT_BLOCK))](
            logits, rows, values, counts, size, logits.stride(0), BLOCK=_COUNT_BLOCK, enable_fp_fusion=False
        )
    return counts


@triton.jit(do_not_specialize_on_alignment=["rows", "values"])
def _count_larger(logits, rows, values, counts, size, row_stride, BLOCK: tl.constexpr):
    index = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + index).to(tl.int64)
    # Whole numbers add up to the same in any order.
    found = tl.load(logits + row * row_stride + columns, mask=columns < size, other=float("-inf"))
    tl.atomic_add(counts + index, tl.sum((found > tl.load(values + index)).to(tl.int32), axis=0))


def compact_rows(
    x: torch.Tensor,  # [rows, size]
    keep: torch.Tensor,  # [rows] bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As kernels/pruning.py says; nothing crosses to the host."""
    count, size = x.shape
    kept = torch.zeros_like(x)
    numbers = torch.full((count,), -1, dtype=torch.int32, device=x.device)
    num_kept = torch.zeros(1, dtype=torch.int32, device=x.device)
    if count:
        _compact_rows[(count, triton.cdiv(size, _COPY_BLOCK))](
            x,
            keep.view(torch.int8),
            kept,
            numbers,
            num_kept,
            count,
            size,
            ROWS=triton.next_power_of_2(count),
            BLOCK=_COPY_BLOCK,
            enable_fp_fusion=False,
        )
    return kept, numbers, num_kept


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["keep"])
def _compact_rows(x, keep, kept, numbers, num_kept, count, size, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    places = tl.arange(0, ROWS)
    staying = tl.load(keep + places, mask=places < count, other=0).to(tl.int32)
    place = tl.sum(tl.where(places < row, staying, 0), axis=0)
    if tl.load(keep + row) != 0:
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        held = columns < size
        found = tl.load(x + row.to(tl.int64) * size + columns, mask=held)
        tl.store(kept + place.to(tl.int64) * size + columns, found, mask=held)
        tl.store(numbers + place, row)
    if row == 0:
        tl.store(num_kept, tl.sum(staying, axis=0))
