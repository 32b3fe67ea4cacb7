"""Rotary embedding with keys and values into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case
from benchmarks.kernels.paged_input import continued
from kernels.rotary import rotary_into_cache, rotary_into_cache_reference

__all__ = ["cases"]


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
