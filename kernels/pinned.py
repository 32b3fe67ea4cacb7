"""From the host to a device: a step's numbers cross from pinned memory, which the device reads by itself.

Out of ordinary memory CUDA copies in two goes, and may keep the host waiting for the first. Out of pinned memory the
host says what is to be copied and goes on. Nobody has to ask whether that copy is over before the next numbers are
written: torch gives a pinned place to somebody else only when the copies out of it are done.
"""

from __future__ import annotations

import torch

__all__ = ["is_apart", "pinned_zeros", "to_device"]


def is_apart(device: torch.device) -> bool:
    """Whether numbers of the host have to cross to be there."""
    return device.type == "cuda"


def pinned_zeros(size: int, device: torch.device) -> torch.Tensor:
    """A place on the host for int32 numbers that will cross to the device: [size]."""
    return torch.zeros(size, dtype=torch.int32, pin_memory=is_apart(device))


def to_device(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers of the host there, for whatever is started from now on; themselves where the host is the device.

    >>> to_device(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    return numbers.pin_memory().to(device, non_blocking=True) if is_apart(device) else numbers
