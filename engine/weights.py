"""One rank's weights, read from a checkpoint folder tensor by tensor and packed as they come."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.checkpoint import Checkpoint
from engine.rope_config import rope_inverse_frequencies
from engine.topology import Shard
from kernels.linear import Linear
from kernels.quantised import QuantisedLinear

__all__ = ["MATRIX", "LayerWeights", "Matrix", "Weights", "load_weights"]

Matrix = Linear | QuantisedLinear
MATRIX = "_proj.weight"
"""How the names of the layers' matrices end, which may be rounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One transformer layer. Norm weights and biases are float32; matrices are in the engine's type."""

    attention_norm: torch.Tensor  # [hidden]
    qkv: Matrix  # [(heads + 2 * kv_heads) * head_dim, hidden]
    query_norm: torch.Tensor | None  # [head_dim]
    key_norm: torch.Tensor | None  # [head_dim]
    output: Matrix  # [hidden, heads * head_dim]
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: Matrix  # [2 * mlp, hidden]
    down: Matrix  # [hidden, mlp]
    window: int  # positions that a row sees, itself included; 0 for all


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Everything one rank multiplies with."""

    shard: Shard
    dtype: torch.dtype
    layers: tuple[LayerWeights, ...]
    embedding: Linear  # [vocabulary shard, hidden], read by rows; the same object as head where they are tied
    head: Linear  # [vocabulary shard, hidden]
    final_norm: torch.Tensor  # [hidden]
    cosines: torch.Tensor  # [positions, head_dim / 2]
    sines: torch.Tensor  # [positions, head_dim / 2]
    output_biases: tuple[torch.Tensor | None, ...]  # per layer [hidden]; added once, after ranks are joined

    @property
    def num_bytes(self) -> int:
        """Bytes of matrices that one pass over this rank's layers and head reads."""
        per_layer = (m.num_bytes for w in self.layers for m in (w.qkv, w.output, w.gate_up, w.down))
        return sum(per_layer) + self.head.num_bytes


def load_weights(
    checkpoint: Checkpoint,
    shard: Shard,
    dtype: torch.dtype,
    *,
    max_context: int,
    device: str = "cpu",
    quantised: str = "none",
) -> Weights:
    """Reads this rank's part; missing or mis-shaped tensors are refused by name.

    `quantised` is what the layers' matrices are rounded to; embedding and head, which decide most, stay as they are.
    """
    reader = _Reader(checkpoint, shard, dtype, device, quantised)
    config = shard.config
    head_name = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
    head = reader.matrix(head_name, config.vocab_size, config.hidden_size, rows=shard.vocabulary)
    embedding = head
    if not config.tie_embeddings:
        embedding = reader.matrix(
            "model.embed_tokens.weight", config.vocab_size, config.hidden_size, rows=shard.vocabulary
        )
    layers = [reader.layer(index) for index in range(config.num_layers)]
    cosines, sines = rotary_tables(shard, max_context, device)
    return Weights(
        shard=shard,
        dtype=dtype,
        layers=tuple(layer for layer, _ in layers),
        embedding=embedding,
        head=head,
        final_norm=reader.vector("model.norm.weight", config.hidden_size),
        cosines=cosines,
        sines=sines,
        output_biases=tuple(bias for _, bias in layers),
    )


def rotary_tables(shard: Shard, max_context: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [max_context, head_dim / 2] float32, with the attention factor of yarn multiplied in."""
    frequencies, factor = rope_inverse_frequencies(shard.config.rope, shard.config.head_dim)
    angles = torch.arange(max_context, dtype=torch.float32)[:, None] * torch.from_numpy(frequencies)
    return (angles.cos() * factor).to(device), (angles.sin() * factor).to(device)


class _Reader:
    def __init__(self, checkpoint: Checkpoint, shard: Shard, dtype: torch.dtype, device: str, quantised: str) -> None:
        self.checkpoint, self.shard, self.dtype, self.device = checkpoint, shard, dtype, device
        self.quantised = quantised

    def vector(self, name: str, size: int, part: slice | None = None) -> torch.Tensor:
        return self.checkpoint.tensor(name, expect=(size,), rows=part).float().to(self.device)

    def part(
        self, name: str, outputs: int, inner: int, *, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        tensor = self.checkpoint.tensor(name, expect=(outputs, inner), rows=rows, columns=columns)
        return tensor.to(dtype=self.dtype, device=self.device)

    def matrix(self, name: str, outputs: int, inner: int, *, rows: slice) -> Linear:
        return Linear(self.part(name, outputs, inner, rows=rows))

    def in_layer(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Matrix:
        return Linear(weight, bias) if self.quantised == "none" else QuantisedLinear(weight, self.quantised, bias)

    def columns_in_layer(self, name: str, inner: int, columns: slice) -> Matrix:
        """Columns of a matrix to the hidden size. To be rounded, whole rows are read: by the largest of its part alone
        each number of ranks would round to another model."""
        hidden = self.shard.config.hidden_size
        if self.quantised == "none":
            return Linear(self.part(name, hidden, inner, columns=columns))
        return QuantisedLinear(self.part(name, hidden, inner), self.quantised, columns=columns)

    def layer(self, index: int) -> tuple[LayerWeights, torch.Tensor | None]:
        config, shard = self.shard.config, self.shard
        hidden, prefix = config.hidden_size, f"model.layers.{index}."
        attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
        projections = (
            ("q", config.q_size, shard.heads),
            ("k", config.kv_size, shard.kv_heads),
            ("v", config.kv_size, shard.kv_heads),
        )
        qkv = torch.cat(
            [self.part(f"{attention}{x}_proj.weight", size, hidden, rows=part) for x, size, part in projections]
        )
        qkv_bias = None
        if config.qkv_bias:
            qkv_bias = torch.cat(
                [self.vector(f"{attention}{x}_proj.bias", size, part) for x, size, part in projections]
            )
        gate_up = torch.cat(
            [self.part(f"{mlp}{x}_proj.weight", config.mlp_size, hidden, rows=shard.mlp) for x in ("gate", "up")]
        )
        weights = LayerWeights(
            attention_norm=self.vector(f"{prefix}input_layernorm.weight", hidden),
            qkv=self.in_layer(qkv, qkv_bias),
            query_norm=self.vector(f"{attention}q_norm.weight", config.head_dim) if config.qk_norm else None,
            key_norm=self.vector(f"{attention}k_norm.weight", config.head_dim) if config.qk_norm else None,
            output=self.columns_in_layer(f"{attention}o_proj.weight", config.q_size, shard.heads),
            mlp_norm=self.vector(f"{prefix}post_attention_layernorm.weight", hidden),
            gate_up=self.in_layer(gate_up),
            down=self.columns_in_layer(f"{mlp}down_proj.weight", config.mlp_size, shard.mlp),
            window=config.sliding_window[index] or 0,
        )
        return weights, self.vector(f"{attention}o_proj.bias", hidden) if config.o_bias else None
