"""What workers are when they join, for tests to which little of it matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from contracts.types import DrafterId, ModelIdentity
from router.orders import DrafterOffer, VerifierOffer

__all__ = ["drafter_offer", "verifier_offer"]

_DRAFTER = DrafterOffer(
    drafter=DrafterId(""),
    kind="model",
    model=None,
    has_logits=True,
    num_logprobs=0,
    capacity=8,
    step_s=0.001,
    prefill_s_per_token=0.0,
    max_context=512,
    device="cpu",
)
_VERIFIER = VerifierOffer(
    name="verifier",
    model=ModelIdentity(
        name="m", architecture="x", vocab_size=9, tokenizer_digest="t", weights_digest="w", dtype="f", num_parameters=1
    ),
    num_ranks=1,
    max_context=512,
    max_batch_rows=64,
    num_blocks=1000,
    block_tokens=16,
    eos_token_ids=frozenset(),
    num_real_tokens=9,
    probes=(),
    device="cpu",
)


def drafter_offer(drafter: DrafterId, **changes: Any) -> DrafterOffer:
    return replace(_DRAFTER, drafter=drafter, **changes)


def verifier_offer(**changes: Any) -> VerifierOffer:
    return replace(_VERIFIER, **changes)
