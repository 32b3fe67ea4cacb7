"""How a drafter introduces itself."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.config import DrafterConfig
from contracts.sampling import MAX_NEW_TOKENS
from contracts.types import ModelIdentity
from specfleet.v1 import fleet_pb2
from workers.drafters.drafter import Drafter
from workers.wire import identity_to_wire

__all__ = ["ModelFace", "Speed", "hello_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of one step, and of reading one token of a prompt, as measured on this machine."""

    step_s: float
    prefill_s_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFace:
    """What others should know of a drafter's model."""

    identity: ModelIdentity
    max_context: int
    device: str


def hello_of(
    name: str,
    config: DrafterConfig,
    drafter: Drafter,
    speed: Speed,
    model: ModelFace | None = None,
    *,
    remembers: bool = False,
) -> fleet_pb2.FromWorker:
    """The first message on every stream. Without a model there is no end to the text that a drafter can follow."""
    hello = fleet_pb2.DrafterHello(
        name=name,
        kind=drafter.kind,
        model=identity_to_wire(model.identity) if model is not None else None,
        has_logits=model is not None,
        num_logprobs=drafter.num_logprobs,
        capacity=config.capacity,
        step_s=speed.step_s,
        prefill_s_per_token=speed.prefill_s_per_token,
        max_context=model.max_context if model is not None else MAX_NEW_TOKENS,
        device=model.device if model is not None else "cpu",
        remembers=remembers,
    )
    return fleet_pb2.FromWorker(drafter_hello=hello)
