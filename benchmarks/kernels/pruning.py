"""Counting larger logits, and moving rows together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes
from kernels.pruning import compact_rows, compact_rows_reference, count_larger, count_larger_reference

__all__ = ["cases", "gpu_cases"]

Operation = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


def cases() -> Iterator[Case]:
    for name, fast, reference, arguments in _inputs(16, 8192, 1024, "cpu"):
        yield Case(name=name, fast=partial(fast, *arguments), reference=partial(reference, *arguments))


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """Whole numbers and copies: equal in every bit."""
    for num_rows in sizes.row_counts:
        for name, fast, reference, arguments in _inputs(num_rows, sizes.vocabulary, sizes.hidden, device):
            is_count = fast is count_larger
            yield GpuCase(
                name=name,
                run=partial(fast, *arguments),
                found=partial(_first, fast, arguments),
                exact=partial(_first, reference, arguments),
                most_error=0.0,
                num_bytes=arguments[0].numel() * 4 * (1 if is_count else 2),
            )


def _inputs(
    num_rows: int, vocabulary: int, hidden: int, device: str
) -> Iterator[tuple[str, Operation, Operation, tuple[torch.Tensor, ...]]]:
    logits = torch.randn(num_rows, vocabulary, device=device)
    rows = torch.arange(num_rows, device=device)
    yield (
        f"larger than one of {vocabulary}, {num_rows} rows",
        count_larger,
        count_larger_reference,
        (logits, rows, logits[:, 5].contiguous()),
    )
    keep = torch.arange(num_rows, device=device) % 3 != 1
    x = torch.randn(num_rows, hidden, device=device)
    yield f"two thirds of {num_rows} rows of {hidden}", compact_rows, compact_rows_reference, (x, keep)


def _first(operation: Operation, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The counts, or the rows that stayed."""
    result = operation(*arguments)
    return result if isinstance(result, torch.Tensor) else result[0]
