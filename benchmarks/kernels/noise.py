"""Shared noise, and choosing with it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case
from kernels.noise import Choice, choose, choose_reference, noise, noise_reference

__all__ = ["cases"]


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
