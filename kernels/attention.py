"""Attention of each row over its own keys, in their logical order, through block tables and tree slots.

A row's result depends on nothing but its own keys: not on the other rows, not on where the keys lie. Both forms below
promise it bitwise; native/src/attention.h and the reference each say why.
"""

from __future__ import annotations

import torch

from kernels import native
from kernels.paged import KVCache, Rows

__all__ = ["attention", "attention_reference"]

_HEAD_DIM_STEP = 16


def attention(
    queries: torch.Tensor,  # [rows, heads * head_dim] in the cache's type
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    window: int,
) -> torch.Tensor:
    """[rows, heads * head_dim] in the cache's type. `window`: positions a row sees, itself included; 0 for all."""
    library = native.library() if queries.device.type == "cpu" and cache.head_dim % _HEAD_DIM_STEP == 0 else None
    if library is None:
        return attention_reference(queries, rows, cache, layer, window=window)
    heads = queries.shape[1] // cache.head_dim
    out = torch.empty_like(queries)
    library.specfleet_attention(
        native.KINDS[cache.dtype],
        native.num_threads(),
        queries.data_ptr(),
        rows.native,
        heads,
        cache.num_kv_heads,
        cache.head_dim,
        window,
        cache.head_dim**-0.5,
        *cache.addresses[layer],
        out.data_ptr(),
    )
    return out


def attention_reference(
    queries: torch.Tensor,  # [rows, heads * head_dim] in the cache's type
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    window: int,
) -> torch.Tensor:
    """The plain meaning, one row after another.

    Every tensor that a row's arithmetic touches has a shape that follows from the row's position alone, and sums are
    elementwise products summed in float32 (a matrix product would choose its order by size); so the row's bits cannot
    depend on its neighbours.
    """
    d, kv_heads = cache.head_dim, cache.num_kv_heads
    out = torch.empty_like(queries)
    for row in range(rows.count):
        slots = rows.slots_in_order(row)
        if window > 0:
            slots = slots[-window:]
        keys, values = (x.float().transpose(0, 1).contiguous() for x in cache.read(layer, slots))
        query = queries[row].float().view(kv_heads, -1, 1, d)
        scores = (query * keys[:, None]).sum(-1) * d**-0.5  # [kv_heads, group, keys]
        weights = torch.softmax(scores, dim=-1)
        out[row] = (weights[..., None] * values[:, None]).sum(-2).flatten().to(out.dtype)
    return out
