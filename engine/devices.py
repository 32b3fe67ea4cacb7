"""Which GPU a rank runs on, and what the GPUs of a group are to each other: said once at start-up."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from contracts.config import ResolvedEngineConfig
from contracts.errors import ConfigError, RankLost, TopologyError
from engine.ranks import Ranks
from kernels.prompts import HEAD_DIMS

__all__ = ["Gpu", "check_fp8", "check_links", "cuda_device", "describe_gpus", "flashinfer_for", "visible_gpus"]

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


def check_fp8(capability: tuple[int, int]) -> None:
    """Refuses weights in fp8 on a GPU that does not know the type."""
    if capability < (8, 9):
        major, minor = capability
        raise ConfigError(
            f"engine.weights is 'fp8', a type that GPUs know from compute capability 8.9 on, and this one has "
            f"{major}.{minor}; it must be int8 or none here"
        )


def flashinfer_for(config: ResolvedEngineConfig, head_dim: int) -> ModuleType:
    """The package, for an engine that need not be deterministic; refused where it could not be used."""
    must = "it must be true here"
    if config.device != "cuda":
        raise ConfigError(f"engine.deterministic is false and engine.device is {config.device}, not cuda; {must}")
    if config.dtype != "bfloat16" or head_dim not in HEAD_DIMS:
        raise ConfigError(
            f"engine.deterministic is false, and FlashInfer reads prompts in bfloat16 with heads of "
            f"{', '.join(map(str, HEAD_DIMS))}, not in {config.dtype} with heads of {head_dim}; {must}"
        )
    if importlib.util.find_spec("flashinfer") is None:
        raise ConfigError(
            "engine.deterministic is false and FlashInfer is not installed; install flashinfer-python, or let it be "
            "true"
        )
    return importlib.import_module("flashinfer")


def check_links(ranks: Ranks, device: str, *, deadline_s: float) -> None:
    """The group's first exchange between its GPUs, which is what connects them: at the start, and not in a round.

    In a thread of its own, for NCCL may wait for ever, in connecting as in exchanging. The deadline should be earlier
    than that of NCCL's watchdog, which ends the process.
    """
    started_s = time.monotonic()
    answers = queue.SimpleQueue[list[int] | Exception]()
    threading.Thread(target=_exchange, args=(ranks, device, answers), daemon=True, name="first exchange").start()
    try:
        found = answers.get(timeout=deadline_s)
    except queue.Empty:
        raise TopologyError(
            f"the first exchange between the {ranks.size} GPUs of this group has not ended after {deadline_s:.3g} s: "
            f"either another rank is not there, or its GPU is not reached. {_WHERE_TO_LOOK}. `nvidia-smi topo -m` "
            "shows the links; if it works with NCCL_P2P_DISABLE=1, PCI access control (ACS, IOMMU) stands between the "
            "GPUs, and if with NCCL_SHM_DISABLE=1, the container's /dev/shm is too small"
        ) from None
    if isinstance(found, RankLost | RuntimeError):
        raise TopologyError(
            f"the {ranks.size} GPUs of this group cannot reach each other: {found}. {_WHERE_TO_LOOK}"
        ) from found
    if isinstance(found, Exception):
        raise found
    if found != list(range(ranks.size)):
        raise TopologyError(f"the group's GPUs answer as ranks {found}, they must be 0 to {ranks.size - 1} in order")
    logger.info("rank %d: %d GPUs connected in %.3g s", ranks.rank, ranks.size, time.monotonic() - started_s)


_WHERE_TO_LOOK = (
    "What was seen of them and their links is in the log of each rank; with NCCL_DEBUG=INFO NCCL says there why it "
    "failed, or what it waits for"
)


def _exchange(ranks: Ranks, device: str, answers: queue.SimpleQueue[list[int] | Exception]) -> None:
    """What the ranks say, read here: waiting for NCCL makes only the stream wait, and what failed shows when numbers
    are fetched."""
    try:
        if device != "cpu":
            torch.cuda.set_device(device)  # each thread has a current one of its own
        answers.put([int(part) for part in ranks.gather(torch.full((1,), ranks.rank, device=device))])
    except Exception as error:  # noqa: BLE001  # it is the other thread's
        answers.put(error)


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
