"""Weights of one byte, read as they are: the product of gpu/linear.py with a factor for each output."""

from __future__ import annotations

import torch

from kernels.gpu.linear import linear

__all__ = ["quantised_linear"]


def quantised_linear(
    x: torch.Tensor,  # [rows, inner] float32 or bfloat16
    weight: torch.Tensor,  # [outputs, inner] int8 or float8_e4m3fn
    scales: torch.Tensor,  # [outputs] float32
    bias: torch.Tensor | None,  # [outputs] float32
) -> torch.Tensor:
    """x W^T * scales + b as float32 [rows, outputs]."""
    y = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device=x.device)
    return linear(x, weight, bias, y, accumulate=False, scales=scales)
