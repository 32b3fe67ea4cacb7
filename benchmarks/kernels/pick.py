"""Choosing with penalties, limits and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes
from kernels.noise import Choice
from kernels.pick import Allowed, Edits, pick, pick_reference

__all__ = ["cases", "gpu_cases"]

_NUM_EDITS = 200  # of each row: a repetition penalty over as many different tokens
_LIMITS = {"": None, ", top-p 0.9": (0.0, 0.9, 0.0)}

Array = np.ndarray[Any, np.dtype[Any]]


def cases() -> Iterator[Case]:
    logits, choices, edits = _input(8, 8192, "cpu")
    yield Case(
        name=f"8 rows of 8192, {_NUM_EDITS} penalties each",
        fast=partial(pick, logits, choices, edits=edits),
        reference=partial(pick_reference, logits, choices, edits=edits),
    )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """Values must have the reference's bits, noise and penalties included. What the host does once for a step is not
    timed."""
    from kernels.gpu.pick import bring, pick_brought

    for num_rows in sizes.row_counts:
        logits, choices, edits = _input(num_rows, sizes.vocabulary, device)
        of_last = edits.places[:, 0] == num_rows - 1
        places = np.stack([np.zeros(int(of_last.sum()), np.int64), edits.places[of_last, 1]], axis=1)
        last = Edits(places=places, values=edits.values[of_last])
        for words, limit in _LIMITS.items():
            limits = None if limit is None else np.array([limit] * num_rows)
            brought = bring(logits, choices, edits, Allowed.all(), limits, first_token=0)

            def exact(
                logits: torch.Tensor = logits,
                choices: list[Choice] = choices,
                edits: Edits = edits,
                limits: Array | None = limits,
            ) -> torch.Tensor:
                return pick_reference(logits.cpu(), choices, edits=edits, limits=limits).values.double().to(device)

            yield GpuCase(
                name=f"{num_rows} rows of {sizes.vocabulary}, {_NUM_EDITS} penalties each{words}",
                run=partial(pick_brought, logits, brought, num_top=1, first_token=0),
                found=partial(_values, logits, choices, edits, limits),
                exact=exact,
                most_error=0.0,
                alone=partial(_values, logits[-1:], choices[-1:], last, None if limits is None else limits[-1:]),
                num_bytes=logits.numel() * 4,
            )


def _input(num_rows: int, size: int, device: str) -> tuple[torch.Tensor, list[Choice], Edits]:
    choices = [Choice(seed=1, position=position, noisy=True) for position in range(num_rows)]
    edits = [(row, token, 1.1, 0.0) for row in range(num_rows) for token in torch.randperm(size)[:_NUM_EDITS].tolist()]
    return torch.randn(num_rows, size, device=device), choices, Edits.of(edits)


def _values(logits: torch.Tensor, choices: list[Choice], edits: Edits, limits: Array | None) -> torch.Tensor:
    return pick(logits, choices, edits=edits, limits=limits).values
