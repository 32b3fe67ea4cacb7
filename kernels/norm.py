"""RMSNorm of rows."""

from __future__ import annotations

import torch

from kernels import native

__all__ = ["rms_norm", "rms_norm_reference"]


def rms_norm(
    x: torch.Tensor,  # [rows, size] float32
    weight: torch.Tensor,  # [size] float32
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, rounded to dtype: [rows, size].

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 0.0, torch.float32)
    tensor([[0.8485, 2.2627]])
    """
    library = native.library() if x.device.type == "cpu" else None
    if library is None:
        return rms_norm_reference(x, weight, eps, dtype)
    y = torch.empty(x.shape, dtype=dtype)
    library.specfleet_rms_norm(
        native.KINDS[dtype],
        native.num_threads(),
        x.data_ptr(),
        weight.data_ptr(),
        x.shape[0],
        x.shape[1],
        eps,
        y.data_ptr(),
    )
    return y


def rms_norm_reference(
    x: torch.Tensor,  # [rows, size] float32
    weight: torch.Tensor,  # [size] float32
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The plain meaning."""
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight).to(dtype)
