"""Drafters as a command line names them: a kind that needs no model, or a checkpoint folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contracts.config import EngineConfig
from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from engine.load import LoadedEngine, load_engine
from engine.shared_noise import noise_of
from workers.drafters.drafter import Drafter
from workers.drafters.registry import KINDS, Setup, make_drafter

__all__ = ["load_drafter_engine", "load_drafters"]

_CACHE_BYTES = 256 * 2**20


def load_drafters(names: Sequence[str], target: LoadedEngine, *, num_threads: int) -> dict[DrafterId, Drafter]:
    """One drafter for each name, under that name or, for a checkpoint, its folder's."""
    drafters: dict[DrafterId, Drafter] = {}
    for name in names:
        is_kind = name in KINDS
        if not is_kind and not Path(name).is_dir():
            raise InvalidArgument(
                f"drafter is {name!r}; right is a checkpoint folder or one of {', '.join(sorted(KINDS))}"
            )
        drafter = DrafterId(name if is_kind else Path(name).name)
        if drafter in drafters:
            raise InvalidArgument(f"two drafters are called {drafter}; name each once, and folders differently")
        engine = None if is_kind else load_drafter_engine(name, target, num_threads)
        setup = Setup(drafter=drafter, vocab_size=target.engine.limits.num_real_tokens, noise=noise_of, engine=engine)
        drafters[drafter] = make_drafter(name if is_kind else "model", setup)
    return drafters


def load_drafter_engine(folder: str, target: LoadedEngine, num_threads: int) -> LoadedEngine:
    """The model of a drafter, refused where it does not spell as the target does."""
    config = EngineConfig(model=folder, dtype=target.config.dtype, num_threads=num_threads, kv_cache_bytes=_CACHE_BYTES)
    loaded = load_engine(config)
    if not loaded.engine.identity.same_tokenizer(target.engine.identity):
        raise InvalidArgument(
            f"drafter {folder} has another tokenizer than {target.config.model}; its token ids mean other things, so "
            "a drafter must be made for the target's tokenizer"
        )
    return loaded
