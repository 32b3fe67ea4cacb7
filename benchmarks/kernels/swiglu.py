"""silu(gate) * up."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case
from kernels.swiglu import swiglu, swiglu_reference

__all__ = ["cases"]


def cases() -> Iterator[Case]:
    for num_rows in (1, 8, 256):
        x = torch.randn(num_rows, 2 * 2816)
        yield Case(
            name=f"{num_rows} rows of 2816",
            fast=partial(swiglu, x, torch.bfloat16),
            reference=partial(swiglu_reference, x, torch.bfloat16),
        )
