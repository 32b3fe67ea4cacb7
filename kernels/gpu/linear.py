"""Matrix products whose rows know nothing of each other.

Every shape of batch runs in tiles of the same size, adds over the inner size in the same order and splits nothing, so
that an output is the same sum whatever other rows there are. 64 rows are what one matrix instruction takes on Hopper;
reading the weights still takes longer than multiplying them until there are several such tiles. Weights of one byte
are read as they are and widened in registers; their scale is one factor per output, applied to the finished sum.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["linear"]

_TILE_ROWS = 64
_TILE_INNER = 64
_TILE_OUTPUTS = 32
# Where there are many outputs a wider tile reads x less often, and there are still programs for every multiprocessor.
_WIDE_TILE_OUTPUTS = 128
_MANY_OUTPUTS = 16384
# Tiles on their way at a time: as many as fit into the shared memory of smaller GPUs. Narrow ones are few programs for
# each multiprocessor, and so have to keep more bytes on their way.
_STAGES = {torch.bfloat16: 8, torch.float32: 2}
_WIDE_STAGES = {torch.bfloat16: 4, torch.float32: 2}
# No matrix instruction takes float32, and what a thread then multiplies itself has to fit into its registers.
_WARPS = {torch.bfloat16: 4, torch.float32: 8}


def linear(
    x: torch.Tensor,  # [rows, inner]
    weight: torch.Tensor,  # [outputs, inner]
    bias: torch.Tensor | None,  # [outputs] float32
    y: torch.Tensor,  # [rows, outputs] float32
    *,
    accumulate: bool,
    scales: torch.Tensor | None = None,  # [outputs] float32
) -> torch.Tensor:
    """y = x W^T * scales + b, or y += that; returns y."""
    (rows, inner), outputs = x.shape, weight.shape[0]
    is_wide = outputs >= _MANY_OUTPUTS
    tile_outputs = _WIDE_TILE_OUTPUTS if is_wide else _TILE_OUTPUTS
    if rows:
        # Tiles of rows side by side: they read the same weights at the same time.
        _linear[(triton.cdiv(rows, _TILE_ROWS), triton.cdiv(outputs, tile_outputs))](
            x,
            weight,
            scales,
            bias,
            y,
            rows,
            outputs,
            inner,
            SCALED=scales is not None,
            BIASED=bias is not None,
            ACCUMULATES=accumulate,
            ROWS=_TILE_ROWS,
            OUTPUTS=tile_outputs,
            INNER=_TILE_INNER,
            num_warps=_WARPS[x.dtype],
            num_stages=(_WIDE_STAGES if is_wide else _STAGES)[x.dtype],
            enable_fp_fusion=False,
        )
    return y


@triton.jit(do_not_specialize=["num_rows"])
def _linear(
    x,
    weight,
    scales,
    bias,
    y,
    num_rows,
    num_outputs,
    num_inner,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    ACCUMULATES: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INNER: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    outputs = (tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)).to(tl.int64)
    inner = tl.arange(0, INNER)
    total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for start in range(0, num_inner, INNER):
        left = num_inner - start
        x_tile = tl.load(
            x + rows * num_inner + (start + inner)[None, :],
            mask=(rows < num_rows) & (inner < left)[None, :],
            other=0.0,
        )
        weight_tile = tl.load(
            weight + outputs[None, :] * num_inner + (start + inner)[:, None],
            mask=(outputs < num_outputs)[None, :] & (inner < left)[:, None],
            other=0.0,
        )
        if SCALED:
            weight_tile = weight_tile.to(tl.float32).to(x.dtype.element_ty)
        total = tl.dot(x_tile, weight_tile, total, input_precision="ieee")
    has_output = outputs < num_outputs
    if SCALED:
        total *= tl.load(scales + outputs, mask=has_output, other=0.0)[None, :]
    if BIASED:
        total += tl.load(bias + outputs, mask=has_output, other=0.0)[None, :]
    place = y + rows * num_outputs + outputs[None, :]
    held = (rows < num_rows) & has_output[None, :]
    if ACCUMULATES:
        total += tl.load(place, mask=held, other=0.0)
    tl.store(place, total, mask=held)
