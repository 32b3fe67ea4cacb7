"""silu(gate) * up."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.kernels.case import Case, GpuCase, Sizes, rounding_of
from kernels.swiglu import swiglu, swiglu_reference

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    for num_rows in (1, 8, 256):
        x = torch.randn(num_rows, 2 * 2816)
        yield Case(
            name=f"{num_rows} rows of 2816",
            fast=partial(swiglu, x, torch.bfloat16),
            reference=partial(swiglu_reference, x, torch.bfloat16),
        )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    for num_rows in sizes.row_counts:
        x = torch.randn(num_rows, 2 * sizes.mlp, device=device)

        def exact(x: torch.Tensor = x) -> torch.Tensor:
            gate, up = x.double().chunk(2, dim=-1)
            return F.silu(gate) * up

        yield GpuCase(
            name=f"{num_rows} rows of {sizes.mlp}",
            run=partial(swiglu, x, torch.bfloat16),
            found=partial(swiglu, x, torch.bfloat16),
            exact=exact,
            most_error=rounding_of(torch.bfloat16),
            alone=partial(swiglu, x[-1:], torch.bfloat16),
            num_bytes=num_rows * sizes.mlp * (4 + 4 + 2),
        )
