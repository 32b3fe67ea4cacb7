"""RMSNorm of rows, with or without adding to the residual stream first: a row is one program, so it knows no other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["rms_norm"]


def rms_norm(
    x: torch.Tensor,  # [rows, size] float32; with delta changed in place
    delta: torch.Tensor | None,  # [rows, size] float32
    weight: torch.Tensor,  # [size] float32
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """x += delta, where there is one; then its norm: [rows, size] of dtype."""
    rows, size = x.shape
    y = torch.empty(rows, size, dtype=dtype, device=x.device)
    block = triton.next_power_of_2(size)
    if rows:
        _rms_norm[(rows,)](
            x,
            delta,
            weight,
            y,
            size,
            eps,
            ADDS=delta is not None,
            BLOCK=block,
            num_warps=8 if block > 2048 else 4,
            enable_fp_fusion=False,
        )
    return y


@triton.jit
def _rms_norm(x, delta, weight, y, size, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * size
    columns = tl.arange(0, BLOCK)
    held = columns < size
    numbers = tl.load(x + start + columns, mask=held, other=0.0)
    if ADDS:
        numbers += tl.load(delta + start + columns, mask=held, other=0.0)
        tl.store(x + start + columns, numbers, mask=held)
    mean_square = tl.sum(numbers * numbers, axis=0) / size
    scaled = numbers * tl.rsqrt(mean_square + eps) * tl.load(weight + columns, mask=held, other=0.0)
    tl.store(y + start + columns, scaled.to(y.dtype.element_ty), mask=held)
