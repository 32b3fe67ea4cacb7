"""Rotary embedding with keys and values into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes, rounding_of
from benchmarks.kernels.paged_input import continued
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from kernels.rotary import rotary_into_cache, rotary_into_cache_reference

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    angles = torch.rand(512, 32)
    for num_rows in (1, 8, 128):
        cache, rows = continued(context=256, num_rows=num_rows, num_kv_heads=8, head_dim=64, dtype=torch.bfloat16)
        qkv = torch.randn(num_rows, 32 * 64)
        fast, reference = (
            partial(
                form,
                qkv,
                rows,
                cache,
                0,
                cosines=angles.cos(),
                sines=angles.sin(),
                query_norm=None,
                key_norm=None,
                eps=1e-5,
            )
            for form in (rotary_into_cache, rotary_into_cache_reference)
        )
        yield Case(name=f"{num_rows} rows, 16 + 16 heads", fast=fast, reference=reference)


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """With the norm of queries and keys; what is compared are queries, and keys and values in the cache.

    After a short text, for nothing of it is read, and every copy of an input holds a cache.
    """
    d = sizes.head_dim
    angles = torch.rand(BLOCK_TOKENS + max(sizes.row_counts), d // 2, device=device)
    norm = torch.rand(d, device=device)
    for num_rows in sizes.row_counts:
        cache, rows = continued(
            context=BLOCK_TOKENS,
            num_rows=num_rows,
            num_kv_heads=sizes.kv_heads,
            head_dim=d,
            dtype=torch.bfloat16,
            device=device,
        )
        qkv = torch.randn(num_rows, (sizes.heads + 2 * sizes.kv_heads) * d, device=device)
        run = partial(
            rotary_into_cache,
            qkv,
            rows,
            cache,
            0,
            cosines=angles.cos(),
            sines=angles.sin(),
            query_norm=norm,
            key_norm=norm,
            eps=1e-5,
        )
        yield GpuCase(
            name=f"{num_rows} rows, {sizes.heads} + {2 * sizes.kv_heads} heads, with norms",
            run=run,
            found=partial(_written, run, cache, rows),
            exact=partial(_exact, qkv, rows, angles, norm, sizes),
            most_error=rounding_of(torch.bfloat16),
            num_bytes=qkv.numel() * (4 + 2) + num_rows * d * 4,
        )


def _written(run: partial[torch.Tensor], cache: KVCache, rows: Rows) -> torch.Tensor:
    queries = run()
    keys, values = cache.read(0, rows.write_slots)
    return torch.cat([queries, keys.flatten(1), values.flatten(1)], dim=1)


def _exact(qkv: torch.Tensor, rows: Rows, angles: torch.Tensor, norm: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    num_turned = sizes.heads + sizes.kv_heads
    x = qkv.double().view(rows.count, -1, sizes.head_dim)
    turned, values = x[:, :num_turned], x[:, num_turned:]
    turned = turned / (turned.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.double()
    # The tables are float32; what is exact is a rotation by what they hold.
    cosine, sine = (table[rows.positions.long()][:, None].double() for table in (angles.cos(), angles.sin()))
    first, second = turned.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return torch.cat([turned, values], dim=1).flatten(1)
