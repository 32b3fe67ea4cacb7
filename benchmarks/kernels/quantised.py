"""Linear layers with weights of one byte."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes, error_of_sum
from kernels.quantised import QUANTISED_DTYPES, QuantisedLinear, quantise, quantised_reference

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    """On the CPU the weights are held as numbers of x's type, so rounding them saves nothing there."""
    weight = torch.randn(1024, 1024).bfloat16()
    layer = QuantisedLinear(weight, "int8")
    x = torch.randn(8, 1024).bfloat16()
    yield Case(
        name="8 rows, 1024 to 1024, int8",
        fast=partial(layer, x),
        reference=partial(quantised_reference, x, *quantise(weight, "int8")),
        num_bytes=layer.num_bytes,
    )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """Exact for the weights as they were rounded; what rounding does to a model is another question."""
    for kind in QUANTISED_DTYPES:
        if kind == "fp8" and device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
            continue
        weight = torch.randn(sizes.hidden, sizes.mlp, device=device).bfloat16()
        layer = QuantisedLinear(weight, kind)
        numbers, scales = quantise(weight, kind)
        rounded = numbers.double() * scales.double()[:, None]
        for num_rows in sizes.row_counts:
            x = torch.randn(num_rows, sizes.mlp, device=device).bfloat16()

            def exact(rounded: torch.Tensor = rounded, x: torch.Tensor = x) -> torch.Tensor:
                return x.double() @ rounded.T

            yield GpuCase(
                name=f"{kind}: {num_rows} rows, {sizes.mlp} to {sizes.hidden}",
                run=partial(layer, x),
                found=partial(layer, x),
                exact=exact,
                most_error=error_of_sum(sizes.mlp),
                alone=partial(layer, x[-1:]),
                num_bytes=layer.num_bytes + num_rows * (2 * sizes.mlp + 4 * sizes.hidden),
                num_flops=2 * num_rows * sizes.mlp * sizes.hidden,
            )
