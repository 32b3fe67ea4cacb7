"""Shared noise, and choosing with it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes
from kernels.noise import Choice, choose, choose_reference, noise, noise_reference

__all__ = ["cases", "gpu_cases"]


def cases() -> Iterator[Case]:
    for size in (8192, 131_072):
        yield Case(
            name=f"noise of {size} tokens",
            fast=partial(noise, 1, 2, 0, size),
            reference=partial(noise_reference, 1, 2, 0, size),
        )
    for temperature in (0.0, 1.0):
        logits, choices = torch.randn(8, 8192), [Choice(seed=1, position=p, noisy=temperature > 0) for p in range(8)]
        yield Case(
            name=f"choose for 8 rows of 8192, temperature {temperature:g}",
            fast=partial(choose, logits, choices),
            reference=partial(choose_reference, logits, choices),
        )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """A drafter's runners-up; values must have the definition's bits, noise included. What the host does once for a
    step is not timed."""
    from kernels.gpu.noise import asked_of, best_of_parts

    for num_rows in sizes.row_counts:
        logits = torch.randn(num_rows, sizes.vocabulary, device=device)
        choices = [Choice(seed=1, position=p, noisy=True, inverse_temperature=1 / 0.7) for p in range(num_rows)]

        def found(logits: torch.Tensor, choices: list[Choice]) -> torch.Tensor:
            return choose(logits, choices, num_top=4)[0]

        def exact(logits: torch.Tensor = logits, choices: list[Choice] = choices) -> torch.Tensor:
            return choose_reference(logits, choices, num_top=4)[0].double().to(device)

        yield GpuCase(
            name=f"best 4 of {sizes.vocabulary} with noise, {num_rows} rows",
            run=partial(best_of_parts, logits, asked_of(choices, logits.device), num_top=4, first_token=0),
            found=partial(found, logits, choices),
            exact=exact,
            most_error=0.0,
            alone=partial(found, logits[-1:], choices[-1:]),
            num_bytes=logits.numel() * 4,
        )
