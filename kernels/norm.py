"""RMSNorm of rows, alone or after adding to the residual stream."""

from __future__ import annotations

import torch

from kernels import gpu, native
from kernels.checks import check_result_type, check_tensor

__all__ = ["add_rms_norm", "add_rms_norm_reference", "rms_norm", "rms_norm_reference"]


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
    _check("x", x, weight, dtype)
    if gpu.runs(x):
        from kernels.gpu.norm import rms_norm as on_gpu

        return on_gpu(x, None, weight, eps, dtype)
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


def add_rms_norm(
    residual: torch.Tensor,  # [rows, size] float32, changed in place
    delta: torch.Tensor,  # [rows, size] float32
    weight: torch.Tensor,  # [size] float32
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """residual += delta, then the norm of that: on a GPU the stream is read and written once.

    >>> residual = torch.tensor([[1.0, 1.0]])
    >>> add_rms_norm(residual, torch.tensor([[2.0, 3.0]]), torch.tensor([1.0, 2.0]), 0.0, torch.float32)
    tensor([[0.8485, 2.2627]])
    >>> residual
    tensor([[3., 4.]])
    """
    _check("residual", residual, weight, dtype)
    check_tensor("delta", delta, tuple(residual.shape), torch.float32)
    if gpu.runs(residual):
        from kernels.gpu.norm import rms_norm as on_gpu

        return on_gpu(residual, delta, weight, eps, dtype)
    return rms_norm(residual.add_(delta), weight, eps, dtype)


def add_rms_norm_reference(
    residual: torch.Tensor,  # [rows, size] float32, changed in place
    delta: torch.Tensor,  # [rows, size] float32
    weight: torch.Tensor,  # [size] float32
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The plain meaning."""
    return rms_norm_reference(residual.add_(delta), weight, eps, dtype)


def _check(name: str, x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> None:
    check_tensor(name, x, ("rows", "size"), torch.float32)
    check_tensor("weight", weight, (x.shape[1],), torch.float32)
    check_result_type(dtype)
