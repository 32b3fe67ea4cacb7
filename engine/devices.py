"""Which GPU a rank runs on, and what the GPUs of a group are to each other: said once at start-up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from contracts.errors import TopologyError

__all__ = ["Gpu", "cuda_device", "describe_gpus", "visible_gpus"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One that this process sees; `peers` are the numbers of those whose memory it can reach without the host."""

    name: str
    memory_bytes: int
    peers: tuple[int, ...]


def cuda_device(rank: int, num_ranks: int) -> str:
    """The device of a rank, made this thread's current one: there kernels are launched, wherever their tensors lie."""
    gpus = visible_gpus()
    logger.info("rank %d: %s", rank, describe_gpus(gpus, num_ranks))
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"


def visible_gpus() -> list[Gpu]:
    """All that this process sees, in torch's order."""
    count = torch.cuda.device_count()
    gpus = []
    for index in range(count):
        facts = torch.cuda.get_device_properties(index)
        others = [other for other in range(count) if other != index]
        peers = tuple(other for other in others if torch.cuda.can_device_access_peer(index, other))
        gpus.append(Gpu(name=facts.name, memory_bytes=facts.total_memory, peers=peers))
    return gpus


def describe_gpus(gpus: Sequence[Gpu], num_ranks: int) -> str:
    """The group's GPUs and the links between them in one line; refuses a group that has not a GPU for each rank."""
    if num_ranks > len(gpus):
        seen = ", ".join(gpu.name for gpu in gpus) or "none"
        raise TopologyError(
            f"engine.tensor_parallel is {num_ranks}, which needs as many GPUs in this machine, each for one rank; "
            f"this process sees {len(gpus)} ({seen}). CUDA_VISIBLE_DEVICES may hide some"
        )
    group = gpus[:num_ranks]
    listed = ", ".join(f"{index}: {gpu.name} {gpu.memory_bytes / 2**30:.0f} GiB" for index, gpu in enumerate(group))
    apart = [
        f"{index} and {other}"
        for index in range(num_ranks)
        for other in range(index + 1, num_ranks)
        if other not in group[index].peers
    ]
    if num_ranks == 1:
        return f"runs alone on {listed}"
    return f"group on {listed}; {'through the host: ' + ', '.join(apart) if apart else 'all linked directly'}"
