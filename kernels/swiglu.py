"""silu(gate) * up, with gate and up side by side as the fused projection leaves them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import gpu, native
from kernels.checks import check_result_type, check_tensor

__all__ = ["swiglu", "swiglu_reference"]


def swiglu(
    gate_up: torch.Tensor,  # [rows, 2 * size] float32
    dtype: torch.dtype,
) -> torch.Tensor:
    """silu(gate) * up rounded to dtype: [rows, size].

    >>> swiglu(torch.tensor([[0.0, 1.0, 5.0, 2.0]]), torch.float32)
    tensor([[0.0000, 1.4621]])
    """
    check_tensor("gate_up", gate_up, ("rows", "2 * size"), torch.float32)
    if gate_up.shape[1] % 2:
        raise ValueError(f"gate_up must have an even number of columns, gate and up; got {gate_up.shape[1]}")
    check_result_type(dtype)
    if gpu.runs(gate_up):
        from kernels.gpu.swiglu import swiglu as on_gpu

        return on_gpu(gate_up, dtype)
    library = native.library() if gate_up.device.type == "cpu" else None
    if library is None:
        return swiglu_reference(gate_up, dtype)
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, size, dtype=dtype)
    library.specfleet_swiglu(native.KINDS[dtype], native.num_threads(), gate_up.data_ptr(), rows, size, out.data_ptr())
    return out


def swiglu_reference(
    gate_up: torch.Tensor,  # [rows, 2 * size] float32
    dtype: torch.dtype,
) -> torch.Tensor:
    """The plain meaning."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (F.silu(gate) * up).to(dtype)
