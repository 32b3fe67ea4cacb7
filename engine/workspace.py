"""What a GPU must have room for beside weights and cache, so that `kv_cache_bytes: auto` leaves it."""

from __future__ import annotations

from engine.captured import MOST_LOGITS_BYTES
from engine.model_config import ModelConfig
from kernels.scratch import SCRATCH_BYTES, scratch_bytes

__all__ = ["workspace_bytes"]

_FLOAT_BYTES = 4


def workspace_bytes(config: ModelConfig, *, num_ranks: int, max_batch_rows: int, max_context: int) -> int:
    """Of each rank, for its largest step.

    Activations, attention's scratch and the logits, once in the memory of the steps that run kernel by kernel and once
    in that of all captured ones; there beside it what the sampler makes of the logits, here the place where they can be
    read.
    """
    activations = max_batch_rows * _activation_floats(config, num_ranks) * _FLOAT_BYTES
    scratch = min(
        SCRATCH_BYTES, scratch_bytes(max_batch_rows, max_context, config.num_heads // num_ranks, config.head_dim)
    )
    logits = max_batch_rows * -(-config.vocab_size // num_ranks) * _FLOAT_BYTES
    return 2 * activations + 2 * scratch + 2 * logits + 2 * min(logits, MOST_LOGITS_BYTES)


def _activation_floats(config: ModelConfig, num_ranks: int) -> int:
    """Of a row, in a layer's attention or its MLP, whichever is more: the residual stream, what is joined into it and
    its norm; with the queries, keys and values, what rotation makes of the queries and what attention does, or with
    both inner sides of the MLP and their product. All counted as float32, which some are."""
    attention = config.q_size + 2 * config.kv_size + 2 * config.q_size
    mlp = 3 * config.mlp_size
    return 3 * config.hidden_size + -(-max(attention, mlp) // num_ranks)
