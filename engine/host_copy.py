"""The one place where the engine waits for a device: what the host needs of a step comes in one copy.

A step of which it needs nothing is waited for as well: its time is measured, and is not that of launching it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["to_host", "wait_for"]


def to_host(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """[rows, n] each, as float64 on the CPU: floats, and integers below 2^53, keep their values."""
    packed = torch.cat([part.double() for part in parts], dim=1)
    here = torch.empty(packed.shape, dtype=torch.float64, pin_memory=packed.is_cuda)
    here.copy_(packed, non_blocking=True)
    wait_for(packed.device)
    return list(torch.split(here, [part.shape[1] for part in parts], dim=1))


def wait_for(device: torch.device) -> None:
    """Until the current stream's work is done; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
