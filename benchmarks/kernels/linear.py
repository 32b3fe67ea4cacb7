"""Linear layers in the shapes of a 291 M target and a 3 M drafter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case
from kernels.linear import Linear, linear_reference

__all__ = ["cases"]


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
