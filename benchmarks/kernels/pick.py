"""Choosing with penalties and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes
from kernels.noise import Choice
from kernels.pick import Edit, pick, pick_reference

__all__ = ["cases", "gpu_cases"]

_NUM_EDITS = 200  # of each row: a repetition penalty over as many different tokens


def cases() -> Iterator[Case]:
    arguments = _input(8, 8192, "cpu")
    yield Case(
        name=f"8 rows of 8192, {_NUM_EDITS} penalties each",
        fast=partial(pick, *arguments),
        reference=partial(pick_reference, *arguments),
    )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """Values must have the reference's bits, noise and penalties included."""
    for num_rows in sizes.row_counts:
        logits, choices, edits = _input(num_rows, sizes.vocabulary, device)
        last = [Edit(row=0, token=e.token, factor=e.factor, addend=e.addend) for e in edits if e.row == num_rows - 1]

        def exact(
            logits: torch.Tensor = logits, choices: list[Choice] = choices, edits: list[Edit] = edits
        ) -> torch.Tensor:
            return pick_reference(logits.cpu(), choices, edits).values[:, None].double().to(device)

        yield GpuCase(
            name=f"{num_rows} rows of {sizes.vocabulary}, {_NUM_EDITS} penalties each",
            run=partial(pick, logits, choices, edits),
            found=partial(_values, logits, choices, edits),
            exact=exact,
            most_error=0.0,
            alone=partial(_values, logits[-1:], choices[-1:], last),
            num_bytes=logits.numel() * 4,
            is_captured=False,
        )


def _input(num_rows: int, size: int, device: str) -> tuple[torch.Tensor, list[Choice], list[Edit]]:
    choices = [Choice(seed=1, position=position, noisy=True) for position in range(num_rows)]
    edits = [
        Edit(row=row, token=token, factor=1.1)
        for row in range(num_rows)
        for token in torch.randperm(size)[:_NUM_EDITS].tolist()
    ]
    return torch.randn(num_rows, size, device=device), choices, edits


def _values(logits: torch.Tensor, choices: list[Choice], edits: list[Edit]) -> torch.Tensor:
    return pick(logits, choices, edits).values[:, None]
