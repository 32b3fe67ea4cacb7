"""What kernel benchmarks measure: on the CPU the fast form beside the reference, on a GPU a kernel beside its floor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["LARGE", "TINY", "Case", "GpuCase", "Sizes", "error_of_sum", "rounding_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One input; `num_bytes` is what has to be read at least, 0 where that is not the limit."""

    name: str
    fast: Callable[[], object]
    reference: Callable[[], object]
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuCase:
    """One input on a GPU. All results are measured by the norm of their error over the norm of what is exact."""

    name: str
    run: Callable[[], object]
    """What is timed: launches alone, on inputs that the arguments of a `partial` hold."""
    found: Callable[[], torch.Tensor]
    """The kernel's result, by rows where `alone` is given."""
    exact: Callable[[], torch.Tensor]
    """The same in float64."""
    most_error: float
    """0.0: equal in every bit."""
    alone: Callable[[], torch.Tensor] | None = None
    """The last row computed alone, where it must have the same bits as among the others."""
    num_bytes: int = 0
    num_flops: int = 0
    other: Callable[[], Callable[[], object]] | None = None
    """Makes the same run on other inputs, where copying all that it holds would take too much memory."""

    def again(self) -> Callable[[], object]:
        """The same run on inputs that lie elsewhere."""
        return self.other() if self.other is not None else copy.deepcopy(self.run)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The model and the step whose operations are measured."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    context: int
    row_counts: tuple[int, ...]


LARGE = Sizes(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp=14336,
    vocabulary=128_256,
    context=4096,
    row_counts=(1, 8, 64, 512),
)
"""Llama 3.1 8B."""

TINY = Sizes(
    layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, mlp=48, vocabulary=200, context=70, row_counts=(1, 3)
)
"""The same code in a moment, for tests."""


def rounding_of(dtype: torch.dtype) -> float:
    """The relative error that one rounding to the type makes at most."""
    return {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}[dtype]


def error_of_sum(inner: int) -> float:
    """What a matrix instruction's sum of so many products of bfloat16 may be off by, relative to its size.

    The products are exact. A step of the instruction adds sixteen of them to the sum and does not round but cut off: up
    to a unit in the last place of float32 each time, always towards zero, so these errors add up and do not cancel.
    """
    return max(inner / 16, 1.0) * 2.0**-23
