"""What this machine has, for whatever the configuration leaves to it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from contracts.config import EngineConfig, MachineFacts

__all__ = ["device_of", "machine_facts"]


def device_of(config: EngineConfig) -> str:
    """Where the model of this configuration runs on this machine."""
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def machine_facts(device: str, rank: int) -> MachineFacts:
    """As a rank finds it that is to run on a device of this kind. A GPU that is not for it is not touched: asking what
    is free on it takes memory there."""
    free_bytes = total_bytes = 0
    if device == "cuda" and torch.cuda.is_available():
        free_bytes, total_bytes = torch.cuda.mem_get_info(min(rank, torch.cuda.device_count() - 1))
    return MachineFacts(
        num_cpus=len(os.sched_getaffinity(0)),
        memory_bytes=min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _container_memory_bytes()),
        has_cuda=torch.cuda.is_available(),
        cuda_memory_bytes=total_bytes,
        cuda_free_bytes=free_bytes,
    )


def _container_memory_bytes() -> int:
    """What the control group of this process allows; without a limit more than any machine has."""
    limits = [2**62]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or the word "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)
