"""Drafters by the name of their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from contracts.errors import InvalidArgument, shown
from contracts.types import DrafterId
from workers.drafters.drafter import Drafter, Noise
from workers.drafters.lookahead import Lookahead
from workers.drafters.memory import MAX_BYTES, MAX_TENANT_BYTES
from workers.drafters.prompt_lookup import PromptLookup
from workers.drafters.recycling import Recycling
from workers.drafters.retrieval import Retrieval
from workers.drafters.stand import Stand
from workers.drafters.trigram import Trigram

__all__ = ["KINDS", "Setup", "make_drafter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every kind is made from. `noise` is the shared noise, for the kinds that draw."""

    drafter: DrafterId
    vocab_size: int
    max_bytes: int = MAX_BYTES
    max_tenant_bytes: int = MAX_TENANT_BYTES
    noise: Noise | None = None


def _prompt_lookup(setup: Setup) -> Drafter:
    return PromptLookup(drafter=setup.drafter, vocab_size=setup.vocab_size)


def _recycling(setup: Setup) -> Drafter:
    return Recycling(
        drafter=setup.drafter,
        vocab_size=setup.vocab_size,
        max_bytes=setup.max_bytes,
        max_tenant_bytes=setup.max_tenant_bytes,
    )


def _trigram(setup: Setup) -> Drafter:
    return Trigram(
        drafter=setup.drafter,
        vocab_size=setup.vocab_size,
        max_bytes=setup.max_bytes,
        max_tenant_bytes=setup.max_tenant_bytes,
    )


def _stand(setup: Setup) -> Drafter:
    return Stand(
        drafter=setup.drafter,
        vocab_size=setup.vocab_size,
        max_bytes=setup.max_bytes,
        max_tenant_bytes=setup.max_tenant_bytes,
        noise=setup.noise,
    )


def _lookahead(setup: Setup) -> Drafter:
    return Lookahead(
        drafter=setup.drafter,
        vocab_size=setup.vocab_size,
        max_bytes=setup.max_bytes,
        max_tenant_bytes=setup.max_tenant_bytes,
    )


def _retrieval(setup: Setup) -> Drafter:
    return Retrieval(
        drafter=setup.drafter,
        vocab_size=setup.vocab_size,
        max_bytes=setup.max_bytes,
        max_tenant_bytes=setup.max_tenant_bytes,
    )


KINDS: Mapping[str, Callable[[Setup], Drafter]] = MappingProxyType(
    {
        PromptLookup.kind: _prompt_lookup,
        Recycling.kind: _recycling,
        Trigram.kind: _trigram,
        Stand.kind: _stand,
        Lookahead.kind: _lookahead,
        Retrieval.kind: _retrieval,
    }
)
"""How to make a drafter of each kind."""


def make_drafter(kind: str, setup: Setup) -> Drafter:
    """A drafter of a kind that is known by name."""
    maker = KINDS.get(kind)
    if maker is None:
        raise InvalidArgument(f"drafter kind is {shown(kind)}; known kinds are {', '.join(sorted(KINDS))}")
    return maker(setup)
