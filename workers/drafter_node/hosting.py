"""From a drafter's configuration to the node that hosts it.

Model libraries are loaded for those that need them alone: the others start in a moment and take little memory.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator

from contracts.clock import Clock, SystemClock
from contracts.config import DrafterConfig
from contracts.types import DrafterId, SequenceId, TenantId
from specfleet.tracing import Tracing, traced
from workers.drafter_node.answers import AtOnce
from workers.drafter_node.hello import Speed, hello_of
from workers.drafter_node.memories import Memories
from workers.drafter_node.node import DrafterNode
from workers.drafters.drafter import Ask, Drafter, Noise, Opening
from workers.drafters.memory import MemoryDrafter
from workers.drafters.registry import Setup, make_drafter
from workers.drafters.stand import Stand

__all__ = ["hosted", "speed_of"]

_MAX_VOCAB = 2**20
"""Drafters without a model say only tokens that they have seen, so they need no tokenizer; no tokenizer has more."""

_NUM_TIMES = 9
_TEXT = tuple(range(32)) * 8  # comes again, so that there is something to find
_NUM_NODES = 8


@contextlib.contextmanager
def hosted(name: str, config: DrafterConfig) -> Iterator[DrafterNode]:
    """The node of this drafter, its speed measured, ready to join."""
    with traced("drafter", name) as tracing:
        if config.engine is None:
            yield _without_model(name, config, tracing)
            return
        from workers.drafter_node.with_model import hosted_with_model  # here, for it loads torch

        with hosted_with_model(name, config, config.engine, tracing) as node:
            yield node


def speed_of(drafter: Drafter, clock: Clock) -> Speed:
    """Of a drafter without a model, on a made-up text that it will not forget: it is of no other use afterwards."""
    open_s, propose_s = list[float](), list[float]()
    for time in range(_NUM_TIMES):
        name = SequenceId(f"probe-{time}")
        began_s = clock.now_s()
        drafter.open([Opening(sequence=name, tenant=TenantId("specfleet:probe"), tokens=_TEXT)])
        opened_s = clock.now_s()
        drafter.propose([Ask(sequence=name, num_nodes=_NUM_NODES)])
        open_s.append(opened_s - began_s)
        propose_s.append(clock.now_s() - opened_s)
    return Speed(step_s=statistics.median(propose_s), prefill_s_per_token=statistics.median(open_s) / len(_TEXT))


def _without_model(name: str, config: DrafterConfig, tracing: Tracing | None) -> DrafterNode:
    setup = Setup(drafter=DrafterId(name), vocab_size=_MAX_VOCAB, noise=_noise_for(config.kind))
    drafter = make_drafter(config.kind, setup)
    clock = SystemClock()
    speed = speed_of(make_drafter(config.kind, setup), clock)
    memories = Memories(drafter, clock) if isinstance(drafter, MemoryDrafter) else None
    hello = hello_of(name, config, drafter, speed, remembers=memories is not None)
    return DrafterNode(
        drafter,
        name=name,
        hello=hello,
        begin=lambda: AtOnce(drafter),
        steps=[],
        memories=memories,
        clock=clock,
        tracing=tracing,
    )


def _noise_for(kind: str) -> Noise | None:
    """The shared noise for the one kind that draws by it; its definition is in torch."""
    if kind != Stand.kind:
        return None
    from engine.shared_noise import noise_of

    return noise_of
