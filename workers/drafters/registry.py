"""Drafters by the name of their kind: ours by one word, anyone's as `module:Class`.

Importing this loads no model library: a drafter that needs no model starts in a moment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from contracts.errors import InvalidArgument, shown
from contracts.types import DrafterId, StepReport
from workers.drafters.drafter import Drafter, Noise
from workers.drafters.lookahead import Lookahead
from workers.drafters.memory import MAX_BYTES, MAX_TENANT_BYTES
from workers.drafters.prompt_lookup import PromptLookup
from workers.drafters.recycling import Recycling
from workers.drafters.retrieval import Retrieval
from workers.drafters.stand import Stand
from workers.drafters.trigram import Trigram

if TYPE_CHECKING:
    from engine.load import LoadedEngine

__all__ = ["KINDS", "MODEL_KINDS", "Setup", "make_drafter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every kind is made from. `noise` is the shared noise, for the kinds without a model that draw.

    `engine` is for the kinds that run a model, and theirs alone; `on_step` hears of each of its steps.
    """

    drafter: DrafterId
    vocab_size: int
    max_bytes: int = MAX_BYTES
    max_tenant_bytes: int = MAX_TENANT_BYTES
    noise: Noise | None = None
    engine: LoadedEngine | None = None
    on_step: Callable[[StepReport], None] | None = None


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


def _model(setup: Setup) -> Drafter:
    if setup.engine is None:
        raise InvalidArgument("a drafter of kind 'model' has no engine; load its checkpoint and pass the engine")
    from workers.drafters.model import ModelDrafter  # here, for it loads torch

    num_tokens = setup.engine.engine.limits.num_real_tokens
    if num_tokens > setup.vocab_size:
        raise InvalidArgument(
            f"vocab_size is {setup.vocab_size}, but {setup.engine.config.model} has {num_tokens} tokens and would "
            "propose some that the target does not know; drafter and target share one tokenizer"
        )
    return ModelDrafter(drafter=setup.drafter, engine=setup.engine.engine, on_step=setup.on_step)


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
"""How to make a drafter of each kind that needs no model."""

MODEL_KINDS: Mapping[str, Callable[[Setup], Drafter]] = MappingProxyType({"model": _model})
"""How to make a drafter of each kind that runs one."""


_PROTOCOL = ("kind", "num_logprobs", "open", "commit", "propose", "close")


def make_drafter(kind: str, setup: Setup) -> Drafter:
    """A drafter of a kind that is known by name, or of a class that is importable here and is made from a `Setup`.

    Such a class runs with all rights of this process. So its name may come from the fleet's own file alone, whose
    author starts this process anyway, and from no message.
    """
    maker = KINDS.get(kind) or MODEL_KINDS.get(kind)
    if maker is not None:
        return maker(setup)
    if ":" not in kind:
        known = ", ".join(sorted([*KINDS, *MODEL_KINDS]))
        raise InvalidArgument(f"drafter kind is {shown(kind)}; known kinds are {known}, and yours as module:Class")
    drafter = _imported(kind)(setup)
    if missing := [name for name in _PROTOCOL if not hasattr(drafter, name)]:
        raise InvalidArgument(
            f"drafter kind is {shown(kind)}, which has no {missing[0]}; it must have all of workers/drafters/drafter.py"
        )
    return drafter


def _imported(kind: str) -> Callable[[Setup], Drafter]:
    module, _, name = kind.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InvalidArgument(
            f"drafter kind is {shown(kind)}, and importing {module} fails: {error}; it must be a module in the folder "
            "where the command is started, or on PYTHONPATH, on every machine that may host the drafter"
        ) from error
    made: Any = getattr(found, name, None)
    if not isinstance(made, type):
        raise InvalidArgument(f"drafter kind is {shown(kind)}, and {module} has no class {name}; it must have one")
    return made
