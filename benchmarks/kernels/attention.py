"""Attention over a paged context."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case
from benchmarks.kernels.paged_input import continued
from kernels.attention import attention, attention_reference

__all__ = ["cases"]


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
