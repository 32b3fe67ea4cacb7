"""Norm, rotation, and keys and values into their slots: one program for each head of each row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.gpu.layout import key_offsets, value_offsets
from kernels.paged import KVCache, Rows

__all__ = ["rotary_into_cache"]


def rotary_into_cache(
    qkv: torch.Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim] float32
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    cosines: torch.Tensor,  # [positions, head_dim / 2] float32
    sines: torch.Tensor,  # [positions, head_dim / 2] float32
    query_norm: torch.Tensor | None,  # [head_dim] float32
    key_norm: torch.Tensor | None,  # [head_dim] float32
    eps: float,
) -> torch.Tensor:
    """Queries [rows, heads * head_dim] in the cache's type."""
    d, kv_heads = cache.head_dim, cache.num_kv_heads
    heads = qkv.shape[1] // d - 2 * kv_heads
    queries = torch.empty(rows.count, heads * d, dtype=cache.dtype, device=qkv.device)
    if rows.count:
        _rotary[(rows.count, heads + 2 * kv_heads)](
            qkv,
            rows.positions,
            rows.write_slots,
            cosines,
            sines,
            query_norm,
            key_norm,
            queries,
            cache.keys[layer],
            cache.values[layer],
            eps,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=d,
            KEY_WIDTH=cache.key_width,
            BLOCK=triton.next_power_of_2(d // 2),
            QUERY_NORM=query_norm is not None,
            KEY_NORM=key_norm is not None,
            num_warps=1,
            enable_fp_fusion=False,
        )
    return queries


# Both are slices of one buffer, aligned by chance.
@triton.jit(do_not_specialize_on_alignment=["positions", "write_slots"])
def _rotary(
    qkv,
    positions,
    write_slots,
    cosines,
    sines,
    query_norm,
    key_norm,
    queries,
    keys,
    values,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERY_NORM: tl.constexpr,
    KEY_NORM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    HALF: tl.constexpr = HEAD_DIM // 2
    columns = tl.arange(0, BLOCK)
    held = columns < HALF
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM + columns
    first = tl.load(source, mask=held, other=0.0)
    second = tl.load(source + HALF, mask=held, other=0.0)
    slot = tl.load(write_slots + row)
    if head >= HEADS + KV_HEADS:
        place = values + value_offsets(slot, head - HEADS - KV_HEADS, KV_HEADS, HEAD_DIM) + columns
        tl.store(place, first.to(values.dtype.element_ty), mask=held)
        tl.store(place + HALF, second.to(values.dtype.element_ty), mask=held)
    else:
        mean_square = (tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / HEAD_DIM
        scale = tl.rsqrt(mean_square + eps)
        position = tl.load(positions + row).to(tl.int64)
        cosine = tl.load(cosines + position * HALF + columns, mask=held, other=0.0)
        sine = tl.load(sines + position * HALF + columns, mask=held, other=0.0)
        if head < HEADS:
            if QUERY_NORM:
                first *= scale * tl.load(query_norm + columns, mask=held, other=0.0)
                second *= scale * tl.load(query_norm + HALF + columns, mask=held, other=0.0)
            place = queries + (row * HEADS + head) * HEAD_DIM + columns
            tl.store(place, (first * cosine - second * sine).to(queries.dtype.element_ty), mask=held)
            tl.store(place + HALF, (second * cosine + first * sine).to(queries.dtype.element_ty), mask=held)
        else:
            if KEY_NORM:
                first *= scale * tl.load(key_norm + columns, mask=held, other=0.0)
                second *= scale * tl.load(key_norm + HALF + columns, mask=held, other=0.0)
            head_of_keys = head - HEADS
            at_first = key_offsets(slot, head_of_keys, columns, KV_HEADS, HEAD_DIM, KEY_WIDTH)
            at_second = key_offsets(slot, head_of_keys, HALF + columns, KV_HEADS, HEAD_DIM, KEY_WIDTH)
            tl.store(keys + at_first, (first * cosine - second * sine).to(keys.dtype.element_ty), mask=held)
            tl.store(keys + at_second, (second * cosine + first * sine).to(keys.dtype.element_ty), mask=held)
