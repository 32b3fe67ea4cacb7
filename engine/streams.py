"""Where on its GPU an engine's kernels run: a stream of its own, urgent or not, on some multiprocessors or all.

Two engines in one process then run side by side, and the urgent one's kernels go first where both have some waiting.
Processes share a GPU by turns unless NVIDIA's MPS runs there; a stream's priority means nothing between turns.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch.cuda import green_contexts

from contracts.config import ResolvedEngineConfig
from contracts.errors import ConfigError

__all__ = ["EngineStream", "GpuFacts", "StreamChoice", "choose_stream", "open_stream", "plain_stream"]

logger = logging.getLogger(__name__)

_HIGH, _NORMAL = -1, 0  # CUDA's numbers: less is more urgent


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """What decides."""

    num_multiprocessors: int
    has_green_contexts: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamChoice:
    """`num_multiprocessors` is 0 for all of them. Some need a green context, whose stream has no priority; then
    `priority` is for the stream on all of them, should that context not be had."""

    priority: int
    num_multiprocessors: int
    remark: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStream:
    """A stream with the green context that it belongs to, which is destroyed as soon as nobody holds it."""

    stream: torch.cuda.Stream
    context: object | None = None


def choose_stream(config: ResolvedEngineConfig, facts: GpuFacts) -> StreamChoice:
    """What is asked for where it can be had; a stream on all multiprocessors, with a remark, where it cannot."""
    priority, wanted = _HIGH if config.gpu_priority == "high" else _NORMAL, config.gpu_multiprocessors
    if wanted is None or wanted == facts.num_multiprocessors:
        return StreamChoice(priority=priority, num_multiprocessors=0, remark=None)
    if wanted > facts.num_multiprocessors:
        raise ConfigError(
            f"engine.gpu_multiprocessors is {wanted} and this GPU has {facts.num_multiprocessors}; it must be all or "
            f"an integer from 1 up to {facts.num_multiprocessors}"
        )
    if facts.has_green_contexts:
        return StreamChoice(priority=priority, num_multiprocessors=wanted, remark=None)
    remark = (
        f"all {facts.num_multiprocessors} multiprocessors are used and not {wanted}: torch has no green contexts here"
    )
    return StreamChoice(priority=priority, num_multiprocessors=0, remark=remark)


def open_stream(config: ResolvedEngineConfig, device: str) -> EngineStream | None:
    """The engine's stream, behind everything that was started before; None on a CPU."""
    if device == "cpu":
        return None
    count = torch.cuda.get_device_properties(device).multi_processor_count
    choice = choose_stream(config, GpuFacts(num_multiprocessors=count, has_green_contexts=green_contexts.SUPPORTED))
    if choice.remark is not None:
        logger.warning("%s", choice.remark)
    opened = _green_stream(choice, device) if choice.num_multiprocessors else None
    return opened or plain_stream(device, priority=choice.priority)


def plain_stream(device: str, *, priority: int = _NORMAL) -> EngineStream:
    """One on all multiprocessors, behind everything that was started before."""
    stream = torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return EngineStream(stream=stream)


def _green_stream(choice: StreamChoice, device: str) -> EngineStream | None:
    """None, with one line in the log, where the driver has no green contexts or not so small ones."""
    try:
        context: Any = green_contexts.GreenContext.create(
            num_sms=choice.num_multiprocessors, device_id=torch.device(device).index
        )
        stream = context.Stream()
    except (RuntimeError, AttributeError) as error:
        logger.warning(
            "all multiprocessors are used and not %d, with %s priority: %s",
            choice.num_multiprocessors,
            "high" if choice.priority == _HIGH else "normal",
            error,
        )
        return None
    if choice.priority == _HIGH:
        logger.warning("engine.gpu_priority is high and not used: streams on some multiprocessors have no priority")
    stream.wait_stream(torch.cuda.current_stream(device))
    return EngineStream(stream=stream, context=context)
