"""Attention of tree rows over paged keys, in tiles of rows and splits of keys.

A program serves one tile of rows (see kernels/tiles.py), one head of keys, and one split: a fixed stretch of positions.
Within it keys come in fixed blocks of positions. A block that every row of the tile sees whole, through one block
table, is read once for all; any other, such as the tree at the end, is read row by row. Both go through the same code,
and a row's arithmetic follows the positions of its own keys: where blocks and splits begin does not depend on the
batch, rows that do not take part in a block keep their sums untouched, and splits are joined in their order. So a row's
bits are its own, as far as a matrix instruction treats all rows of its tile alike.

What lies between the two kernels is bounded: rows that would need more go in stretches (see kernels/scratch.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.gpu.layout import BLOCK_TOKENS, key_offsets, value_offsets
from kernels.paged import KVCache, Rows
from kernels.scratch import SCRATCH_BYTES, SPLIT, Stretch, scratch_bytes, stretches
from kernels.tiles import TILE, Tiles, rows_per_tile

__all__ = ["attention"]

_KEYS = 64
_KEYS_IN_FLOAT32 = 16  # no matrix instruction takes float32: more would not fit into a thread's registers
_SPLIT = SPLIT
_SCRATCH_BYTES = SCRATCH_BYTES
_JOINED = 16  # splits whose parts are on their way together
_MINUS_INFINITY = tl.constexpr(float("-inf"))
_WORD_BITS = tl.constexpr(32)


def attention(
    queries: torch.Tensor,  # [rows, heads * head_dim] in the cache's type
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    window: int,
) -> torch.Tensor:
    """[rows, heads * head_dim] in the cache's type."""
    d, kv_heads = cache.head_dim, cache.num_kv_heads
    heads = queries.shape[1] // d
    group = heads // kv_heads
    tile = max(TILE, triton.next_power_of_2(group))
    is_float32 = cache.dtype == torch.float32
    out = torch.empty_like(queries)
    if rows.count == 0:
        return out
    tiles, parts = _in_stretches(rows, rows_per_tile(group), heads, d)
    num_splits, most_rows = triton.cdiv(tiles.longest, _SPLIT), max(part.num_rows for part in parts)
    sums = torch.empty(most_rows, heads, num_splits, d, dtype=torch.float32, device=queries.device)
    weights = torch.empty(most_rows, heads, num_splits, 2, dtype=torch.float32, device=queries.device)
    sizes = {"HEADS": heads, "HEAD_DIM": d, "BLOCK_DIM": triton.next_power_of_2(d), "SPLIT": _SPLIT}
    for part in parts:
        _attend[(part.num_tiles, kv_heads, num_splits)](
            queries,
            rows.positions,
            rows.num_in_table,
            rows.table_offsets,
            rows.tables,
            tiles.bounds[part.first_tile :],
            tiles.nodes[part.first_tile :],
            tiles.bitmaps,
            cache.keys[layer],
            cache.values[layer],
            sums,
            weights,
            window,
            d**-0.5,
            part.first_row,
            **sizes,
            KV_HEADS=kv_heads,
            KEY_WIDTH=cache.key_width,
            NODES=tiles.num_nodes,
            TILE=tile,
            KEYS=min(_KEYS, _KEYS_IN_FLOAT32) if is_float32 else _KEYS,
            num_warps=8 if is_float32 else 4,
            enable_fp_fusion=False,
        )
        _join[(part.num_rows, heads)](
            rows.positions,
            sums,
            weights,
            out,
            num_splits,
            part.first_row,
            **sizes,
            JOINED=_JOINED,
            enable_fp_fusion=False,
        )
    return out


def _in_stretches(rows: Rows, per_tile: int, heads: int, head_dim: int) -> tuple[Tiles, list[Stretch]]:
    """The rows' tiles, and which of them are launched together. Tiles are smaller where a whole one would be too much:
    one row is the least."""
    tiles = rows.tiles(rows_per_tile=per_tile)
    most_rows = max(_SCRATCH_BYTES // scratch_bytes(1, tiles.longest, heads, head_dim, split=_SPLIT), 1)
    if rows.count <= most_rows:
        return tiles, [Stretch(first_tile=0, num_tiles=tiles.count, first_row=0, num_rows=rows.count)]
    if most_rows < per_tile and tiles.first_rows is not None:
        tiles = rows.tiles(rows_per_tile=most_rows)
    if tiles.first_rows is None:
        raise ValueError(
            f"{rows.count} rows whose numbers change in place, with up to {tiles.longest} keys, take more than "
            f"{_SCRATCH_BYTES} bytes between two kernels; there may be {most_rows} at most"
        )
    return tiles, stretches(tiles.first_rows, rows.count, most_rows)


_ANYWHERE = ["positions", "nums_in_table", "table_offsets", "tables", "bounds", "nodes", "bitmaps"]
"""Numbers that begin where others end: for each such place a form of the kernel would be compiled, in service."""


@triton.jit(do_not_specialize=["first_row_of_all"], do_not_specialize_on_alignment=_ANYWHERE)
def _attend(
    queries,
    positions,
    nums_in_table,
    table_offsets,
    tables,
    bounds,
    nodes,
    bitmaps,
    keys,
    values,
    sums,
    weights,
    window,
    scale,
    first_row_of_all,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    NODES: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    first_row, num_rows = tl.load(bounds + tile * 3), tl.load(bounds + tile * 3 + 1)
    num_shared = tl.load(bounds + tile * 3 + 2)
    places = tl.arange(0, TILE)
    row_in_tile = places // GROUP
    is_member = row_in_tile < num_rows
    row = first_row + row_in_tile
    head = kv_head * GROUP + places % GROUP
    position = tl.load(positions + row, mask=is_member, other=-1)
    elements = tl.arange(0, BLOCK_DIM)
    in_head = elements < HEAD_DIM
    line = row.to(tl.int64) * HEADS + head
    query = tl.load(
        queries + line[:, None] * HEAD_DIM + elements[None, :], mask=is_member[:, None] & in_head[None, :], other=0.0
    )
    largest = tl.full((TILE,), _MINUS_INFINITY, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sum_of_values = tl.zeros((TILE, BLOCK_DIM), tl.float32)
    end = tl.max(position, axis=0) + 1
    first_seen = 0
    seen_by_all = 0
    if window > 0:
        first_seen = tl.maximum(tl.min(tl.where(is_member, position, end), axis=0) + 1 - window, 0)
        seen_by_all = tl.maximum(end - window, 0)
    # Blocks of keys, in order: some that each row reads for itself, then those that all share, then again the former.
    start = tl.maximum(split * SPLIT, first_seen // KEYS * KEYS)
    stop = tl.minimum(split * SPLIT + SPLIT, end)
    num_blocks = tl.maximum(stop - start + KEYS - 1, 0) // KEYS
    num_before = tl.minimum(tl.maximum(seen_by_all - start + KEYS - 1, 0) // KEYS, num_blocks)
    num_together = tl.maximum(tl.minimum((num_shared - start) // KEYS, num_blocks) - num_before, 0)
    first_together = num_before * num_rows
    first_after = first_together + num_together
    # One loop over all of them, so that the next block is on its way whatever kind it is.
    for turn in range(first_after + (num_blocks - num_before - num_together) * num_rows):
        is_shared = (turn >= first_together) & (turn < first_after)
        own_turn = tl.where(turn < first_together, turn, turn - num_together)
        block_index = tl.where(is_shared, turn - first_together + num_before, own_turn // num_rows)
        block_index = tl.where(turn >= first_after, block_index + num_together, block_index)
        source = tl.where(is_shared, 0, own_turn % num_rows)
        begin = start + block_index * KEYS
        at = begin + tl.arange(0, KEYS)
        its_position = tl.load(positions + first_row + source)
        in_table = tl.load(nums_in_table + first_row + source)
        is_seen = at <= its_position
        if window > 0:
            is_seen = is_seen & (at > its_position - window)
        table = tables + tl.load(table_offsets + first_row + source)
        block = tl.load(table + at // BLOCK_TOKENS, mask=is_seen & (at < in_table), other=0)
        slots = block * BLOCK_TOKENS + at % BLOCK_TOKENS
        if begin + KEYS > in_table:
            node = tl.arange(0, NODES)
            word = tl.load(bitmaps + (first_row + source) * (NODES // _WORD_BITS) + node // _WORD_BITS)
            is_ancestor = (word >> (node % _WORD_BITS)) & 1
            place_on_path = in_table + tl.cumsum(is_ancestor, axis=0) - 1
            is_here = (at[:, None] == place_on_path[None, :]) & (is_ancestor == 1)[None, :]
            node_slots = tl.load(nodes + tile * NODES + node)
            slots = tl.where(at < in_table, slots, tl.sum(tl.where(is_here, node_slots[None, :], 0), axis=1))
        key = tl.load(
            keys + key_offsets(slots[None, :], kv_head, elements[:, None], KV_HEADS, HEAD_DIM, KEY_WIDTH),
            mask=is_seen[None, :] & in_head[:, None],
            other=0.0,
        )
        value = tl.load(
            values + value_offsets(slots, kv_head, KV_HEADS, HEAD_DIM)[:, None] + elements[None, :],
            mask=is_seen[:, None] & in_head[None, :],
            other=0.0,
        )
        takes_part = is_member & (is_shared | (row_in_tile == source)) & (position >= begin)
        scores = tl.dot(query, key, input_precision="ieee") * scale
        scores = tl.where(takes_part[:, None] & is_seen[None, :], scores, _MINUS_INFINITY)
        higher = tl.maximum(largest, tl.max(scores, axis=1))
        shift = tl.where(higher == _MINUS_INFINITY, 0.0, higher)
        fading = tl.exp(largest - shift)
        weight = tl.exp(scores - shift[:, None])
        grown = sum_of_values * fading[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        sum_of_values = tl.where(takes_part[:, None], grown, sum_of_values)
        total = tl.where(takes_part, total * fading + tl.sum(weight, axis=1), total)
        largest = tl.where(takes_part, higher, largest)
    part = (line - first_row_of_all * HEADS) * tl.num_programs(2) + split
    tl.store(weights + part * 2, largest, mask=is_member)
    tl.store(weights + part * 2 + 1, total, mask=is_member)
    tl.store(
        sums + part[:, None] * HEAD_DIM + elements[None, :],
        sum_of_values,
        mask=is_member[:, None] & in_head[None, :],
    )


@triton.jit(do_not_specialize=["num_splits", "first_row_of_all"], do_not_specialize_on_alignment=["positions"])
def _join(
    positions,
    sums,
    weights,
    out,
    num_splits,
    first_row_of_all,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    JOINED: tl.constexpr,
):
    row = first_row_of_all + tl.program_id(0)
    line = row.to(tl.int64) * HEADS + tl.program_id(1)
    elements = tl.arange(0, BLOCK_DIM)
    in_head = elements < HEAD_DIM
    largest = tl.full((), _MINUS_INFINITY, tl.float32)
    total = tl.zeros((), tl.float32)
    joined = tl.zeros((BLOCK_DIM,), tl.float32)
    # Up to the row's own last split: how many there are follows from the longest row of the batch. Some at a time,
    # always as many, from the row's first on: what lies past its last adds zeros.
    num_own = tl.load(positions + row) // SPLIT + 1
    for first in range(0, num_own, JOINED):
        split = first + tl.arange(0, JOINED)
        is_own = split < num_own
        part = (line - first_row_of_all * HEADS) * num_splits + split
        its_largest = tl.load(weights + part * 2, mask=is_own, other=_MINUS_INFINITY)
        higher = tl.maximum(largest, tl.max(its_largest, axis=0))
        shift = tl.where(higher == _MINUS_INFINITY, 0.0, higher)
        fading, weight = tl.exp(largest - shift), tl.exp(its_largest - shift)
        found = tl.load(
            sums + part[:, None] * HEAD_DIM + elements[None, :], mask=is_own[:, None] & in_head[None, :], other=0.0
        )
        joined = joined * fading + tl.sum(found * weight[:, None], axis=0)
        its_total = tl.load(weights + part * 2 + 1, mask=is_own, other=0.0)
        total = total * fading + tl.sum(its_total * weight, axis=0)
        largest = higher
    tl.store(out + line * HEAD_DIM + elements, (joined / total).to(out.dtype.element_ty), mask=in_head)
