"""RMSNorm of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case
from kernels.norm import rms_norm, rms_norm_reference

__all__ = ["cases"]


def cases() -> Iterator[Case]:
    weight = torch.rand(1024)
    for num_rows in (1, 8, 256):
        arguments = (torch.randn(num_rows, 1024), weight, 1e-5, torch.bfloat16)
        yield Case(
            name=f"{num_rows} rows of 1024",
            fast=partial(rms_norm, *arguments),
            reference=partial(rms_norm_reference, *arguments),
        )
