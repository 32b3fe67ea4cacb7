"""Attention over a paged context."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes, rounding_of
from benchmarks.kernels.paged_input import continued
from kernels.attention import attention, attention_reference
from kernels.paged import KVCache, Rows

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    for num_rows, context in ((1, 256), (8, 256), (8, 2048)):
        cache, rows = continued(context=context, num_rows=num_rows, num_kv_heads=8, head_dim=64, dtype=torch.bfloat16)
        queries = torch.randn(num_rows, 16 * 64).bfloat16()
        arguments = (queries, rows, cache, 0)
        yield Case(
            name=f"{num_rows} rows, context {context}, 16 heads over 8",
            fast=partial(attention, *arguments, window=0),
            reference=partial(attention_reference, *arguments, window=0),
            num_bytes=2 * context * 8 * 64 * 2,
        )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """Rows in order and as a tree; one sequence's keys have to be read once, however many rows there are."""
    d, kv_heads = sizes.head_dim, sizes.kv_heads
    for num_rows in sizes.row_counts:
        for is_tree in (False, True)[: 1 + (num_rows > 1)]:
            cache, rows = continued(
                context=sizes.context,
                num_rows=num_rows,
                num_kv_heads=kv_heads,
                head_dim=d,
                dtype=torch.bfloat16,
                device=device,
                is_tree=is_tree,
            )
            queries = torch.randn(num_rows, sizes.heads * d, device=device).bfloat16()
            run = partial(attention, queries, rows, cache, 0, window=0)
            last = rows.select(torch.tensor([num_rows - 1]))
            yield GpuCase(
                name=f"{num_rows} rows{' of a tree' if is_tree else ''}, context {sizes.context}",
                run=run,
                found=run,
                exact=partial(_exact, queries, rows, cache),
                # Of the weights, which are rounded before they meet the values, and of the result.
                most_error=2 * rounding_of(torch.bfloat16),
                alone=partial(attention, queries[-1:], last, cache, 0, window=0),
                num_bytes=2 * (sizes.context + num_rows) * kv_heads * d * 2 + 2 * queries.numel() * 2,
                num_flops=4 * num_rows * (sizes.context + num_rows // 2) * sizes.heads * d,
            )


def _exact(queries: torch.Tensor, rows: Rows, cache: KVCache) -> torch.Tensor:
    out = torch.empty(queries.shape, dtype=torch.float64, device=queries.device)
    for row in range(rows.count):
        keys, values = (x.double() for x in cache.read(0, rows.slots_in_order(row)))
        query = queries[row].double().view(cache.num_kv_heads, -1, cache.head_dim)
        weights = torch.softmax(torch.einsum("kgd,nkd->kgn", query, keys) * cache.head_dim**-0.5, dim=-1)
        out[row] = torch.einsum("kgn,nkd->kgd", weights, values).flatten()
    return out
