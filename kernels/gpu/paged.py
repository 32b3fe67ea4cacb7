"""Copying whole tokens between slots of the cache, all layers at once.

Through a buffer, in two launches: programs run in any order, and a target may be somebody's source.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.gpu.layout import key_offsets, value_offsets

__all__ = ["copy_slots"]


def copy_slots(
    keys: torch.Tensor,  # [layers, blocks, kv_heads, head_dim / w, 16, w]
    values: torch.Tensor,  # [layers, blocks, kv_heads, 16, head_dim]
    sources: torch.Tensor,  # [n] integers
    targets: torch.Tensor,  # [n] integers
) -> None:
    """All sources are read before any target is written."""
    num_layers, _, kv_heads, _, head_dim = values.shape
    count = sources.shape[0]
    if count == 0:
        return
    buffer = torch.empty(count, num_layers, kv_heads, 2, head_dim, dtype=keys.dtype, device=keys.device)
    for slots, writes in ((sources, False), (targets, True)):
        _copy[(count, num_layers, kv_heads)](
            keys,
            values,
            slots,
            buffer,
            keys.stride(0),
            WRITES=writes,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            KEY_WIDTH=keys.shape[-1],
            BLOCK=triton.next_power_of_2(head_dim),
            num_warps=1,
            enable_fp_fusion=False,
        )


@triton.jit(do_not_specialize_on_alignment=["slots"])
def _copy(
    keys,
    values,
    slots,
    buffer,
    layer_stride,
    WRITES: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index, layer, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    columns = tl.arange(0, BLOCK)
    held = columns < HEAD_DIM
    slot = tl.load(slots + index)
    key = keys + layer * layer_stride + key_offsets(slot, head, columns, KV_HEADS, HEAD_DIM, KEY_WIDTH)
    value = values + layer * layer_stride + value_offsets(slot, head, KV_HEADS, HEAD_DIM) + columns
    buffered = buffer + ((index * tl.num_programs(1) + layer) * KV_HEADS + head) * 2 * HEAD_DIM + columns
    if WRITES:
        tl.store(key, tl.load(buffered, mask=held), mask=held)
        tl.store(value, tl.load(buffered + HEAD_DIM, mask=held), mask=held)
    else:
        tl.store(buffered, tl.load(key, mask=held), mask=held)
        tl.store(buffered + HEAD_DIM, tl.load(value, mask=held), mask=held)
