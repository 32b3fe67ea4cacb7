"""Batched continuation of prompts with a KV cache: for the target's own text, for evaluation, and for drafters'
proposals.

Rows of one batch are aligned at their right end; a mask hides the padding on the left, and every row counts its own
positions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.noise import Choice
from kernels.noise import choose as choose_with_noise
from models.network import Attention, Network, rotary_table, rotate

# (logits [rows, vocab], index of each row's prompt, absolute position of the token to choose) -> token ids [rows]
Chooser = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
# Called at every step with the logits that chose: [rows, vocab] and the rows' prompts.
Observer = Callable[[Tensor, Sequence[int]], None]


def greedy(logits: Tensor, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:  # [rows, vocab]
    return logits.argmax(-1)


def noisy(temperature: float, seeds: Sequence[int]) -> Chooser:
    """The fleet's own rule: argmax of logits / temperature + noise(seed, position). Greedy at temperature 0."""
    if temperature == 0:
        return greedy

    def choose(logits: Tensor, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        choices = [
            Choice(seed=seeds[prompt], position=position, inverse_temperature=1 / temperature, noisy=True)
            for prompt, position in zip(prompts, positions, strict=True)
        ]
        return choose_with_noise(logits.float().cpu(), choices)[1][:, 0].to(logits.device)

    return choose


@dataclass(kw_only=True)
class _Batch:
    """Caches of the rows still growing. `keys` and `values`: one [rows, kv_heads, capacity, head_dim] per layer."""

    keys: list[Tensor]
    values: list[Tensor]
    num_padding: Tensor  # [rows]
    length: int

    def keep(self, rows: Tensor) -> None:  # [kept] int64
        self.keys = [cache[rows] for cache in self.keys]
        self.values = [cache[rows] for cache in self.values]
        self.num_padding = self.num_padding[rows]


@torch.no_grad()
def continue_prompts(
    network: Network,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    end_id: int,
    choose: Chooser = greedy,
    observe: Observer | None = None,
    batch_rows: int = 64,
) -> list[list[int]]:
    """The continuation of every prompt, up to and with `end_id`, in the order of `prompts`."""
    answers: list[list[int]] = [[] for _ in prompts]
    # Prompts of similar length together: less padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_rows):
        _continue_batch(network, prompts, order[first : first + batch_rows], answers, max_new, end_id, choose, observe)
    return answers


def _continue_batch(
    network: Network,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    answers: list[list[int]],
    max_new: int,
    end_id: int,
    choose: Chooser,
    observe: Observer | None,
) -> None:
    longest = max(len(prompts[row]) for row in rows)
    num_padding = [longest - len(prompts[row]) for row in rows]
    padded = [[0] * num + list(prompts[row]) for row, num in zip(rows, num_padding, strict=True)]
    batch = _empty_batch(network, torch.tensor(num_padding, device=network.device), longest + max_new)
    tokens = torch.tensor(padded, device=network.device)
    for _ in range(max_new):
        logits = _forward(network, batch, tokens)
        if observe is not None:
            observe(logits, rows)
        chosen = choose(logits, rows, [len(prompts[row]) + len(answers[row]) for row in rows])
        for row, token in zip(rows, chosen.tolist(), strict=True):
            answers[row].append(token)
        alive = torch.nonzero(chosen != end_id).flatten()
        if len(alive) == 0:
            return
        if len(alive) < len(rows):
            batch.keep(alive)
            rows = [rows[index] for index in alive.tolist()]
        tokens = chosen[alive][:, None]


def _empty_batch(network: Network, num_padding: Tensor, capacity: int) -> _Batch:  # [rows]
    shape, kind = network.shape, network.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else network.embed_tokens.weight.dtype
    size = (len(num_padding), shape.num_kv_heads, capacity, shape.head_dim)
    return _Batch(
        keys=[torch.zeros(size, device=network.device, dtype=dtype) for _ in range(shape.num_layers)],
        values=[torch.zeros(size, device=network.device, dtype=dtype) for _ in range(shape.num_layers)],
        num_padding=num_padding,
        length=0,
    )


def _forward(
    network: Network, batch: _Batch, tokens: Tensor
) -> Tensor:  # [rows, new] -> logits [rows, vocab] of the last
    num_new = tokens.shape[1]
    first, last = batch.length, batch.length + num_new
    index = torch.arange(last, device=network.device)
    positions = (index[None, first:] - batch.num_padding[:, None]).clamp(min=0)
    cos, sin = rotary_table(positions.flatten(), network.shape.head_dim, network.shape.rope_theta)
    cos, sin = (table.view(len(tokens), 1, num_new, -1) for table in (cos, sin))
    visible = (index[None, None, :] <= index[None, first:, None]) & (
        index[None, None, :] >= batch.num_padding[:, None, None]
    )
    # Padding sees itself, so that no row of the softmax is empty.
    visible = visible | (index[None, None, :] == index[None, first:, None])
    x: Tensor = network.embed_tokens(tokens)
    for number, layer in enumerate(network.blocks):
        attended = _attend(layer.self_attn, batch, number, layer.input_layernorm(x), cos, sin, visible[:, None])
        x = x + attended
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    batch.length = last
    return F.linear(network.norm(x[:, -1]), network.embed_tokens.weight)


def _attend(
    attention: Attention,
    batch: _Batch,
    number: int,
    x: Tensor,  # [rows, new, hidden]
    cos: Tensor,  # [rows, 1, new, head_dim / 2]
    sin: Tensor,
    visible: Tensor,  # [rows, 1, new, length]
) -> Tensor:
    shape = attention.shape
    rows, num_new, _ = x.shape
    first, last = batch.length, batch.length + num_new
    q = rotate(attention.q_proj(x).view(rows, num_new, shape.num_heads, shape.head_dim).transpose(1, 2), cos, sin)
    k = attention.k_proj(x).view(rows, num_new, shape.num_kv_heads, shape.head_dim).transpose(1, 2)
    v = attention.v_proj(x).view(rows, num_new, shape.num_kv_heads, shape.head_dim).transpose(1, 2)
    batch.keys[number][:, :, first:last] = rotate(k, cos, sin)
    batch.values[number][:, :, first:last] = v
    keys, values = batch.keys[number][:, :, :last], batch.values[number][:, :, :last]
    mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible, enable_gqa=True)
    joined: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(rows, num_new, -1))
    return joined
