"""RMSNorm of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes, rounding_of
from kernels.norm import add_rms_norm, rms_norm, rms_norm_reference

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    weight = torch.rand(1024)
    for num_rows in (1, 8, 256):
        arguments = (torch.randn(num_rows, 1024), weight, 1e-5, torch.bfloat16)
        yield Case(
            name=f"{num_rows} rows of 1024",
            fast=partial(rms_norm, *arguments),
            reference=partial(rms_norm_reference, *arguments),
        )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """Fused with the residual's addition: the stream is read and written, the delta read, the norm written."""
    weight = torch.rand(sizes.hidden, device=device)
    for num_rows in sizes.row_counts:
        stream, delta = (torch.randn(num_rows, sizes.hidden, device=device) for _ in range(2))

        def found(rows: slice, stream: torch.Tensor = stream, delta: torch.Tensor = delta) -> torch.Tensor:
            return add_rms_norm(stream[rows].clone(), delta[rows], weight, 1e-5, torch.bfloat16)

        def exact(stream: torch.Tensor = stream, delta: torch.Tensor = delta) -> torch.Tensor:
            x = stream.double() + delta.double()
            return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()

        yield GpuCase(
            name=f"{num_rows} rows of {sizes.hidden}, fused with an addition",
            run=partial(add_rms_norm, stream.clone(), delta * 0, weight, 1e-5, torch.bfloat16),
            found=partial(found, slice(None)),
            exact=exact,
            most_error=rounding_of(torch.bfloat16),
            alone=partial(found, slice(num_rows - 1, None)),
            num_bytes=num_rows * sizes.hidden * (4 + 4 + 4 + 2),
        )
