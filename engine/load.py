"""From a configuration to a running engine, or to a follower of one."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from contracts.clock import Clock
from contracts.config import EngineConfig, ModelFacts, ResolvedEngineConfig, resolve_engine
from contracts.errors import ConfigError, TopologyError
from engine.captured import CapturedSteps, give_back
from engine.checkpoint import Checkpoint
from engine.compiled import CompiledStep
from engine.devices import check_fp8, check_links, cuda_device, flashinfer_for
from engine.engine import Engine, Follower
from engine.executor import Executor
from engine.machine import device_of, machine_facts
from engine.ranks import Ranks, SingleRank
from engine.streams import open_stream
from engine.text.tokenizer import Tokenizer
from engine.topology import Shard
from engine.warm_up import warm_up
from engine.weights import MATRIX, load_weights
from engine.workspace import workspace_bytes
from kernels import native
from kernels.paged import KVCache
from kernels.prompts import WORKSPACE_BYTES, PromptAttention

__all__ = ["LoadedEngine", "load_engine", "load_follower", "spare_torch_threads"]

logger = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedEngine:
    """An engine with the tokenizer of its checkpoint and the configuration it runs under."""

    engine: Engine
    tokenizer: Tokenizer
    config: ResolvedEngineConfig
    eos_token_ids: tuple[int, ...]


def load_engine(
    config: EngineConfig, *, ranks: Ranks | None = None, clock: Clock | None = None, gpu_share: float = 1.0
) -> LoadedEngine:
    """Rank 0: reads the checkpoint, plans memory, builds the executor; `gpu_share` is what it has of each GPU."""
    ranks = ranks or SingleRank()
    with Checkpoint.open(config.model) as checkpoint:
        tokenizer = _tokenizer(checkpoint)
        resolved = _resolved(config, checkpoint, ranks.rank, gpu_share)
        engine = Engine(
            _executor(checkpoint, resolved, tokenizer, ranks),
            checkpoint.identity(tokenizer, dtype=_number_format(resolved)),
            max_context=resolved.max_context,
            max_batch_rows=resolved.max_batch_rows,
            prefix_cache=resolved.prefix_cache,
            clock=clock,
        )
        if resolved.device == "cuda":
            warm_up(engine)
        return LoadedEngine(
            engine=engine, tokenizer=tokenizer, config=resolved, eos_token_ids=checkpoint.config.eos_token_ids
        )


def load_follower(config: EngineConfig, ranks: Ranks, *, gpu_share: float = 1.0) -> Follower:
    """A rank above 0 of the same configuration."""
    with Checkpoint.open(config.model) as checkpoint:
        resolved = _resolved(config, checkpoint, ranks.rank, gpu_share)
        return Follower(_executor(checkpoint, resolved, _tokenizer(checkpoint), ranks))


def spare_torch_threads() -> None:
    """For a process that does nothing but run engines: torch's own threads have only odd jobs where the CPU library
    computes, and waiting for them to wake costs more than they bring (several ms a step on busy cores)."""
    if native.library() is not None:
        torch.set_num_threads(1)


def _number_format(config: ResolvedEngineConfig) -> str:
    """As the fleet is told: rounded weights make another model, and a text that began with one must not change it."""
    return config.dtype if config.weights == "none" else f"{config.dtype}, weights rounded to {config.weights}"


def _check_weights(config: ResolvedEngineConfig, device: str) -> None:
    """Says what rounded weights mean, and refuses them where nothing multiplies with them."""
    if config.weights == "none":
        return
    if device != "cpu" and config.weights == "fp8":
        check_fp8(torch.cuda.get_device_capability(device))
    logger.warning(
        "the weights of %s are rounded to %s: as a target it answers as another model than the checkpoint, as a "
        "drafter it guesses a little differently%s",
        config.model,
        config.weights,
        "" if device != "cpu" else "; on a CPU that makes nothing faster or smaller",
    )


def _check_agreement(ranks: Ranks, checkpoint: Checkpoint, config: ResolvedEngineConfig) -> None:
    """Refuses a group whose ranks would compute different things."""
    mine = f"{checkpoint.digest()} {_number_format(config)} {config.max_context} {config.deterministic}".encode()
    digest = torch.frombuffer(bytearray(hashlib.sha256(mine).digest()), dtype=torch.uint8)
    differing = [rank for rank, theirs in enumerate(ranks.gather(digest)) if not torch.equal(theirs, digest)]
    if differing:
        raise TopologyError(
            f"rank {ranks.rank} runs {checkpoint.folder} in {_number_format(config)} with a context of "
            f"{config.max_context} and deterministic {str(config.deterministic).lower()}, but ranks {differing} run "
            "another checkpoint, dtype, weights, max_context or deterministic; all must be the same"
        )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    tokenizer = Tokenizer.load(Path(checkpoint.folder))
    tokenizer.check_matches(checkpoint.config.vocab_size)
    return tokenizer


def _resolved(config: EngineConfig, checkpoint: Checkpoint, rank: int, gpu_share: float) -> ResolvedEngineConfig:
    dtype, device = _DTYPES["bfloat16" if config.dtype == "auto" else config.dtype], device_of(config)
    has_bytes = config.weights != "none" and device == "cuda"
    sizes = [
        torch.Size(checkpoint.shape(name)).numel() * (1 if has_bytes and name.endswith(MATRIX) else dtype.itemsize)
        for name in checkpoint.names
    ]
    facts = ModelFacts(
        max_context=checkpoint.config.max_context,
        weight_bytes=sum(sizes),
        workspace_bytes=_workspace_bytes(config, checkpoint) if device == "cuda" else 0,
    )
    if device == "cuda":
        give_back()  # or it would count as taken
    return resolve_engine(config, machine_facts(device, rank), facts, gpu_share=gpu_share)


def _workspace_bytes(config: EngineConfig, checkpoint: Checkpoint) -> int:
    max_context = checkpoint.config.max_context if config.max_context == "auto" else config.max_context
    needed = workspace_bytes(
        checkpoint.config,
        num_ranks=config.tensor_parallel,
        max_batch_rows=config.max_batch_rows,
        max_context=max_context,
    )
    return needed + (0 if config.deterministic else WORKSPACE_BYTES)


def _executor(checkpoint: Checkpoint, config: ResolvedEngineConfig, tokenizer: Tokenizer, ranks: Ranks) -> Executor:
    if config.tensor_parallel != ranks.size:
        raise ConfigError(f"engine.tensor_parallel is {config.tensor_parallel}, but the group has {ranks.size} ranks")
    shard = Shard(config=checkpoint.config, rank=ranks.rank, num_ranks=ranks.size)
    dtype = _DTYPES[config.dtype]
    device = cuda_device(ranks.rank, ranks.size) if config.device == "cuda" else "cpu"
    _check_weights(config, device)
    flashinfer = None if config.deterministic else flashinfer_for(config, shard.config.head_dim)
    if device != "cpu" and ranks.size > 1:
        check_links(ranks, device, deadline_s=0.75 * config.step_deadline_s)
    sizes = {
        "num_layers": shard.config.num_layers,
        "num_kv_heads": shard.num_kv_heads,
        "head_dim": shard.config.head_dim,
    }
    bytes_per_block = KVCache.bytes_per_block(**sizes, dtype=dtype)
    num_blocks = config.kv_cache_bytes // bytes_per_block
    _check_agreement(ranks, checkpoint, config)
    # Rank 0 counts blocks for all, and the machines of the ranks need not be alike.
    num_blocks = min(int(part) for part in ranks.gather(torch.tensor(num_blocks)))
    if num_blocks < 1:
        raise ConfigError(
            f"engine.kv_cache_bytes is {config.kv_cache_bytes}; one block of this model takes {bytes_per_block}"
        )
    with native.use_threads(config.num_threads):
        weights = load_weights(
            checkpoint, shard, dtype, max_context=config.max_context, device=device, quantised=config.weights
        )
    cache = KVCache(**sizes, num_blocks=num_blocks, dtype=dtype, device=device)
    if flashinfer is not None:
        cache.prompts = PromptAttention(flashinfer, device)
        logger.warning("engine.deterministic is false: the same request may get another text when others are served")
    whole_step = CompiledStep.build(weights, cache) if config.compiled_step else None
    return Executor(
        weights,
        cache,
        ranks,
        num_threads=config.num_threads,
        num_real_tokens=min(tokenizer.num_real_tokens, checkpoint.config.vocab_size),
        compiled=whole_step or CapturedSteps.build(weights, ranks, cache),
        stream=open_stream(config, device),
    )
