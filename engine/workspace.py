"""What a GPU must have room for beside weights and cache, so that `kv_cache_bytes: auto` leaves it."""

from __future__ import annotations

from engine.captured import MOST_LOGITS_BYTES
from engine.model_config import ModelConfig
from kernels.scratch import SCRATCH_BYTES, scratch_bytes

__all__ = ["workspace_bytes"]

_LOGIT_BYTES = 4


def workspace_bytes(config: ModelConfig, *, num_ranks: int, max_batch_rows: int, max_context: int) -> int:
    """Of each rank, for its largest step.

    Attention's scratch and the logits, once in the memory of the steps that run kernel by kernel and once in that of
    all captured ones; there beside it what the sampler makes of the logits, here the place where they can be read.
    Activations are smaller, and come out of what `auto` leaves in any case.
    """
    scratch = min(
        SCRATCH_BYTES, scratch_bytes(max_batch_rows, max_context, config.num_heads // num_ranks, config.head_dim)
    )
    logits = max_batch_rows * -(-config.vocab_size // num_ranks) * _LOGIT_BYTES
    return 2 * scratch + 2 * logits + 2 * min(logits, MOST_LOGITS_BYTES)
