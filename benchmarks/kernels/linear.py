"""Linear layers in the shapes of a 291 M target and a 3 M drafter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes, error_of_sum
from kernels.linear import Linear, linear_reference

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    for outputs, inner, num_rows in (
        (5632, 1024, 1),
        (5632, 1024, 8),
        (1024, 2816, 8),
        (5632, 1024, 256),
        (192, 512, 1),
    ):
        weight = torch.randn(outputs, inner).bfloat16()
        x = torch.randn(num_rows, inner).bfloat16()
        layer = Linear(weight)
        yield Case(
            name=f"{num_rows} rows, {inner} to {outputs}",
            fast=partial(layer, x),
            reference=partial(linear_reference, x, weight),
            num_bytes=layer.num_bytes,
        )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """The projections of a layer, batch-invariant; sums in float32 of products that are exact."""
    shapes = {"down": (sizes.hidden, sizes.mlp), "gate and up": (2 * sizes.mlp, sizes.hidden)}
    for name, (outputs, inner) in shapes.items():
        weight = torch.randn(outputs, inner, device=device).bfloat16()
        layer = Linear(weight)
        for num_rows in sizes.row_counts:
            x = torch.randn(num_rows, inner, device=device).bfloat16()

            def exact(x: torch.Tensor = x, weight: torch.Tensor = weight) -> torch.Tensor:
                return x.double() @ weight.double().T

            yield GpuCase(
                name=f"{name}: {num_rows} rows, {inner} to {outputs}",
                run=partial(layer, x),
                found=partial(layer, x),
                exact=exact,
                most_error=error_of_sum(inner),
                alone=partial(layer, x[-1:]),
                num_bytes=layer.num_bytes + num_rows * (2 * inner + 4 * outputs),
                num_flops=2 * num_rows * inner * outputs,
            )
