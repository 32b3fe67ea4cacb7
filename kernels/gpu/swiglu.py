"""silu(gate) * up, element by element."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["swiglu"]

_BLOCK = 1024


def swiglu(
    gate_up: torch.Tensor,  # [rows, 2 * size] float32
    dtype: torch.dtype,
) -> torch.Tensor:
    """[rows, size] of dtype."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, size, dtype=dtype, device=gate_up.device)
    if rows:
        _swiglu[(rows, triton.cdiv(size, _BLOCK))](gate_up, out, size, BLOCK=_BLOCK, enable_fp_fusion=False)
    return out


@triton.jit
def _swiglu(gate_up, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = columns < size
    gate = tl.load(gate_up + row * 2 * size + columns, mask=held, other=0.0)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=held, other=0.0)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * size + columns, product.to(out.dtype.element_ty), mask=held)
