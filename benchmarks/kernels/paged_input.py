"""A cache with one sequence in it, and rows that continue it."""

from __future__ import annotations

import torch

from kernels.paged import BLOCK_TOKENS, KVCache, Rows

__all__ = ["continued"]


def continued(
    *,
    context: int,
    num_rows: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: str = "cpu",
    is_tree: bool = False,
) -> tuple[KVCache, Rows]:
    """`num_rows` rows after `context` tokens, whose blocks lie scattered in a cache of random content.

    In order, or as the nodes of a tree of two branches.
    """
    num_blocks = -(-(context + num_rows) // BLOCK_TOKENS)
    cache = KVCache(
        num_layers=1,
        num_blocks=2 * num_blocks,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
    )
    cache.keys.normal_()
    cache.values.normal_()
    table = torch.randperm(2 * num_blocks)[:num_blocks].tolist()
    slots = [table[p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS for p in range(context, context + num_rows)]
    # Nodes of a tree alternate between its branches: the path to node i is i, i - 2, ...
    paths = [slots[row % 2 : row + 1 : 2] if is_tree else [] for row in range(num_rows)]
    positions = [context + (row // 2 if is_tree else row) for row in range(num_rows)]
    rows = Rows.from_lists(
        positions=positions,
        write_slots=slots,
        num_in_table=[p + 1 - len(path) for p, path in zip(positions, paths, strict=True)],
        table_offsets=[0] * num_rows,
        tables=table,
        tail_offsets=torch.tensor([0, *map(len, paths)]).cumsum(0).tolist(),
        tail_slots=[slot for path in paths for slot in path],
    )
    return cache, rows.to(cache.keys.device)
