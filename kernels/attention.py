"""Attention of each row over its own keys, in their logical order, through block tables and tree slots.

A row's result depends on nothing but its own keys: not on the other rows, not on where the keys lie. Both forms below
promise it bitwise; native/src/attention.h and the reference each say why.
"""

from __future__ import annotations

import torch

from kernels import gpu, native
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
    """[rows, heads * head_dim] in the cache's type. `window`: positions a row sees, itself included; 0 for all.

    Two keys that a query likes alike give the mean of their values:

    >>> cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=2, dtype=torch.float32)
    >>> values = torch.tensor([[[1.0, 0.0]], [[3.0, 8.0]]])
    >>> cache.write(0, torch.tensor([0, 1]), torch.ones(2, 1, 2), values)
    >>> row = Rows.from_lists(positions=[1], write_slots=[1], num_in_table=[2], table_offsets=[0], tables=[0],
    ...                       tail_offsets=[0, 0], tail_slots=[])
    >>> attention(torch.ones(1, 2), row, cache, 0, window=0)
    tensor([[2., 4.]])
    """
    _check(queries, rows, cache, window)
    if cache.prompts is not None and cache.prompts.reads(rows):
        return cache.prompts(queries, rows, cache, layer, window=window)
    if gpu.runs(queries):
        from kernels.gpu.attention import attention as on_gpu

        return on_gpu(queries, rows, cache, layer, window=window)
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


def _check(queries: torch.Tensor, rows: Rows, cache: KVCache, window: int) -> None:
    per_group = cache.num_kv_heads * cache.head_dim
    fits = queries.dim() == 2 and queries.shape[0] == rows.count and queries.shape[1] % per_group == 0
    if not fits or queries.dtype != cache.dtype or not queries.is_contiguous():
        raise ValueError(
            f"queries must be contiguous {cache.dtype} [{rows.count}, a multiple of {per_group}], "
            f"got {queries.dtype} {tuple(queries.shape)}"
        )
    if window < 0:
        raise ValueError(f"window must be a number of positions or 0 for all, got {window}")


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
