"""The forward pass, one readable layer after another. compiled.py does the same in one call, bit for bit.

The residual stream is float32; matrices read it rounded to the engine's type. With several ranks, each adds its part of
the output and down projections, and the parts are joined in the order of the ranks, so that the sum is the same on
all of them and does not change from run to run.
"""

from __future__ import annotations

import torch

from engine.ranks import Ranks
from engine.weights import LayerWeights, Matrix, Weights
from kernels.attention import attention
from kernels.norm import add_rms_norm, rms_norm
from kernels.paged import KVCache, Rows
from kernels.rotary import rotary_into_cache
from kernels.swiglu import swiglu

__all__ = ["embed", "forward_layers", "head_logits"]


def embed(
    weights: Weights,
    ranks: Ranks,
    tokens: torch.Tensor,  # [rows] int64
) -> torch.Tensor:
    """The residual stream [rows, hidden] float32 before the first layer."""
    if ranks.size == 1:
        return weights.embedding.embed(tokens)
    held = weights.shard.vocabulary
    mine = (tokens >= held.start) & (tokens < held.stop)
    rows = weights.embedding.embed(torch.where(mine, tokens - held.start, torch.zeros_like(tokens)))
    return ranks.join_sum(torch.where(mine[:, None], rows, torch.zeros_like(rows)))


def forward_layers(
    weights: Weights,
    ranks: Ranks,
    residual: torch.Tensor,  # [rows, hidden] float32, changed in place
    rows: Rows,
    cache: KVCache,
    *,
    first: int,
    last: int,
) -> torch.Tensor:
    """Layers first..last-1."""
    for index in range(first, last):
        layer, bias = weights.layers[index], weights.output_biases[index]
        normed = _attention_block(weights, layer, ranks, residual, rows, cache, index, bias)
        _add_joined(layer.down, swiglu(layer.gate_up(normed), weights.dtype), residual, ranks, None)
    return residual


def _attention_block(
    weights: Weights,
    layer: LayerWeights,
    ranks: Ranks,
    residual: torch.Tensor,  # [rows, hidden]
    rows: Rows,
    cache: KVCache,
    index: int,
    bias: torch.Tensor | None,  # [hidden]
) -> torch.Tensor:
    """Returns what the MLP reads: the norm of the residual stream with attention in it."""
    eps = weights.shard.config.rms_eps
    normed = rms_norm(residual, layer.attention_norm, eps, weights.dtype)
    queries = rotary_into_cache(
        layer.qkv(normed),
        rows,
        cache,
        index,
        cosines=weights.cosines,
        sines=weights.sines,
        query_norm=layer.query_norm,
        key_norm=layer.key_norm,
        eps=eps,
    )
    attended = attention(queries, rows, cache, index, window=layer.window)
    if ranks.size > 1 and bias is None:  # one rank alone adds where it multiplies
        delta = ranks.join_sum(layer.output(attended))
        return add_rms_norm(residual, delta, layer.mlp_norm, eps, weights.dtype)
    _add_joined(layer.output, attended, residual, ranks, bias)
    return rms_norm(residual, layer.mlp_norm, eps, weights.dtype)


def _add_joined(
    linear: Matrix,
    x: torch.Tensor,  # [rows, inner shard]
    residual: torch.Tensor,  # [rows, hidden]
    ranks: Ranks,
    bias: torch.Tensor | None,  # [hidden]
) -> None:
    if ranks.size == 1:
        linear.add_to(x, residual)
    else:
        residual += ranks.join_sum(linear(x))
    if bias is not None:
        residual += bias


def head_logits(
    weights: Weights,
    residual: torch.Tensor,  # [rows, hidden]
    chosen: torch.Tensor,  # [num_chosen] int64: the rows whose logits are wanted
) -> torch.Tensor:
    """Logits [num_chosen, vocabulary shard] float32."""
    rows = residual[chosen] if chosen.shape[0] != residual.shape[0] else residual
    return weights.head(rms_norm(rows, weights.final_norm, weights.shard.config.rms_eps, weights.dtype))
