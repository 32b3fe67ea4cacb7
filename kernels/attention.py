"""Attention of each row over its own keys, in their logical order, through block tables and tree slots.

A row's result depends on nothing but its own keys: not on the other rows, not on where the keys lie. Both forms below
promise it bitwise; native/src/attention.h and the reference each say why.
"""

from __future__ import annotations

import torch

from kernels import gpu, native
from kernels.checks import check_tensor
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from kernels.scratch import SPLIT
from kernels.tiles import rows_per_tile

__all__ = ["attention", "attention_reference"]

_HEAD_DIM_STEP = 16
_LEAST_HEAD_DIM_ON_GPU = 16
"""What a matrix instruction takes."""
_MOST_KEYS_ON_GPU = 65_535 * SPLIT
"""One launch has no more splits in the last of its three dimensions."""


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
    heads = _checked_heads(queries, rows, cache, layer, window)
    if cache.prompts is not None and cache.prompts.reads(rows):
        return cache.prompts(queries, rows, cache, layer, window=window)
    if gpu.runs(queries):
        from kernels.gpu.attention import attention as on_gpu

        _check_for_gpu(rows, cache, heads // cache.num_kv_heads)
        return on_gpu(queries, rows, cache, layer, window=window)
    _check_keys(rows, cache)
    library = native.library() if queries.device.type == "cpu" and cache.head_dim % _HEAD_DIM_STEP == 0 else None
    if library is None:
        return attention_reference(queries, rows, cache, layer, window=window)
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


def _checked_heads(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> int:
    """The number of query heads; what does not fit is refused."""
    check_tensor("queries", queries, (rows.count, "heads * head_dim"), cache.dtype)
    per_group = cache.num_kv_heads * cache.head_dim
    if queries.shape[1] == 0 or queries.shape[1] % per_group:
        raise ValueError(
            f"queries must have a multiple of {per_group} columns, {cache.num_kv_heads} groups of heads of "
            f"{cache.head_dim}; got {queries.shape[1]}"
        )
    if not 0 <= layer < cache.num_layers:
        raise ValueError(f"layer must be 0 to {cache.num_layers - 1}, got {layer}")
    if window < 0:
        raise ValueError(f"window must be a number of positions or 0 for all, got {window}")
    return queries.shape[1] // cache.head_dim


def _check_for_gpu(rows: Rows, cache: KVCache, group: int) -> None:
    if cache.head_dim < _LEAST_HEAD_DIM_ON_GPU:
        raise ValueError(f"on a GPU head_dim must be at least {_LEAST_HEAD_DIM_ON_GPU}, got {cache.head_dim}")
    longest = rows.tiles(rows_per_tile=rows_per_tile(group)).longest
    if longest > _MOST_KEYS_ON_GPU:
        raise ValueError(f"on a GPU a row sees at most {_MOST_KEYS_ON_GPU} keys, got {longest}")


def _check_keys(rows: Rows, cache: KVCache) -> None:
    """Refuses keys that are not in the cache, and rows that list more or fewer than they see."""
    if rows.is_known_to_fit(into := ("keys", cache.num_blocks)):
        return
    n, flat = rows.count, rows.host.numpy()
    positions, _, in_table, table_offsets = flat[: 4 * n].reshape(4, n)
    tail_offsets, tails = flat[4 * n : 5 * n + 1], flat[5 * n + 1 + rows.num_table_entries :]
    in_tail = tail_offsets[1:] - tail_offsets[:-1]
    wrong = (in_table + in_tail != positions + 1) | (in_table < 0) | (in_tail < 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"row {row} at position {positions[row]} lists {in_table[row] + in_tail[row]} keys "
            f"instead of {positions[row] + 1}"
        )
    last_entry = (table_offsets + (in_table + BLOCK_TOKENS - 1) // BLOCK_TOKENS).max()
    if table_offsets.min() < 0 or last_entry > rows.num_table_entries:
        raise ValueError(f"rows use block tables up to entry {last_entry}, but there are {rows.num_table_entries}")
    if tail_offsets[0] < 0 or tail_offsets[-1] > tails.size:
        raise ValueError(f"rows use tail slots up to {tail_offsets[-1]}, but there are {tails.size}")
    blocks = flat[5 * n + 1 : 5 * n + 1 + rows.num_table_entries]
    for name, held, end in (
        ("blocks", blocks, cache.num_blocks),
        ("tail slots", tails, cache.num_blocks * BLOCK_TOKENS),
    ):
        if held.size and not 0 <= held.min() <= held.max() < end:
            raise ValueError(f"{name} must be 0 to {end - 1}, got {held.min()} to {held.max()}")
    rows.note_fit(into)


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
