"""A cache with one sequence in it, and rows that continue it."""

from __future__ import annotations

import torch

from kernels.paged import BLOCK_TOKENS, KVCache, Rows

__all__ = ["continued"]


def continued(
    *, context: int, num_rows: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[KVCache, Rows]:
    """`num_rows` rows in order after `context` tokens, whose blocks lie scattered in a cache of random content."""
    num_blocks = -(-(context + num_rows) // BLOCK_TOKENS)
    cache = KVCache(num_layers=1, num_blocks=2 * num_blocks, num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=dtype)
    cache.keys.normal_()
    cache.values.normal_()
    table = torch.randperm(2 * num_blocks)[:num_blocks].tolist()
    positions = list(range(context, context + num_rows))
    rows = Rows.from_lists(
        positions=positions,
        write_slots=[table[p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS for p in positions],
        num_in_table=[p + 1 for p in positions],
        table_offsets=[0] * num_rows,
        tables=table,
        tail_offsets=[0] * (num_rows + 1),
        tail_slots=[],
    )
    return cache, rows
