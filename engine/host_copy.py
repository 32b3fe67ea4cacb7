"""The one place where the engine waits for a device: what the host needs of a step comes in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["to_host"]


def to_host(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """[rows, n] each, as float64 on the CPU: floats, and integers below 2^53, keep their values."""
    packed = torch.cat([part.double() for part in parts], dim=1)
    here = torch.empty(packed.shape, dtype=torch.float64, pin_memory=packed.is_cuda)
    here.copy_(packed, non_blocking=True)
    if packed.is_cuda:
        torch.cuda.current_stream(packed.device).synchronize()
    return list(torch.split(here, [part.shape[1] for part in parts], dim=1))
