"""The Llama-shaped network that the recipe trains.

It is written for training on few CPU threads: plain tensors, no cache, one fused attention call, and a loss that never
keeps a float32 copy of all logits alive. Parameter names are those of Hugging Face's Llama, so that export is a copy
and not a translation."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one network. `hidden_size` need not equal `num_heads * head_dim`."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    vocab_size: int
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def num_parameters(self) -> int:
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.mlp_size + 2 * self.hidden_size
        return self.vocab_size * self.hidden_size + self.num_layers * layer + self.hidden_size

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # [..., hidden]
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [num_positions, head_dim / 2], float32."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.float()[:, None] * frequencies[None, :]
    return angles.cos(), angles.sin()


def rotate(
    x: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:  # x [batch, heads, time, head_dim]; cos, sin [time, head_dim / 2]
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)


def causal_attention(
    q: Tensor,  # [batch, heads, time, head_dim]
    k: Tensor,  # [batch, kv_heads, time, head_dim]
    v: Tensor,  # the same
    documents: Tensor | None = None,  # [batch, time]: a token sees those of its own document only; None: one document
) -> Tensor:
    """Attention in blocks of query rows, each against the keys up to its end.

    On CPU, compiled, forward and backward together take less than half the time of the library's fused attention,
    whose backward is slow there; a query head and its kv head meet in one matrix product, so keys are not repeated.
    """
    batch, heads, time, head_dim = q.shape
    kv_heads = k.shape[1]
    if q.is_cuda:
        visible = visible_keys(0, time, documents, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None], enable_gqa=kv_heads != heads)
    group = heads // kv_heads
    q = q.view(batch, kv_heads, group, time, head_dim) * head_dim**-0.5
    mixed = []
    for start in range(0, time, ATTENTION_BLOCK):
        end = min(start + ATTENTION_BLOCK, time)
        rows = q[:, :, :, start:end].reshape(batch, kv_heads, group * (end - start), head_dim)
        scores = (rows @ k[:, :, :end].transpose(-1, -2)).view(batch, kv_heads, group, end - start, end).float()
        visible = visible_keys(start, end, documents, q.device)[:, None, None]
        probs = scores.masked_fill(~visible, -1e9).softmax(-1).to(v.dtype)
        block = probs.view(batch, kv_heads, group * (end - start), end) @ v[:, :, :end]
        mixed.append(block.view(batch, kv_heads, group, end - start, head_dim))
    return torch.cat(mixed, dim=3).view(batch, heads, time, head_dim)


def visible_keys(start: int, end: int, documents: Tensor | None, device: torch.device) -> Tensor:
    """Which of the first `end` keys each of the rows from `start` sees: bool [batch or 1, end - start, end]."""
    visible = torch.ones(end - start, end, dtype=torch.bool, device=device).tril(start)[None]
    if documents is not None:
        visible = visible & (documents[:, start:end, None] == documents[:, None, :end])
    return visible


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, documents: Tensor | None
    ) -> Tensor:  # x [batch, time, hidden]
        batch, time, _ = x.shape
        heads, kv_heads, head_dim = self.shape.num_heads, self.shape.num_kv_heads, self.shape.head_dim
        q = rotate(self.q_proj(x).view(batch, time, heads, head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(batch, time, kv_heads, head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, time, kv_heads, head_dim).transpose(1, 2)
        mixed = causal_attention(q, k, v, documents)
        joined: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, time, heads * head_dim))
        return joined


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.mlp_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.mlp_size, bias=False)
        self.down_proj = nn.Linear(shape.mlp_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [batch, time, hidden]
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = MLP(shape)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, documents: Tensor | None
    ) -> Tensor:  # x [batch, time, hidden]
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, documents)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Network(nn.Module):
    """Token ids in, final hidden states out; `logits` and `token_losses` read them through the tied embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def blocks(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Hidden states [batch, time, hidden] of `tokens` [batch, time]; `documents` as in `causal_attention`."""
        cos, sin = rotary_table(
            torch.arange(tokens.shape[1], device=tokens.device), self.shape.head_dim, self.shape.rope_theta
        )
        x: Tensor = self.embed_tokens(tokens)
        for layer in self.blocks:
            x = layer(x, cos, sin, documents)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:  # -> [batch, time, vocab]
        return F.linear(self(tokens, documents), self.embed_tokens.weight)


def initialise(network: Network, seed: int) -> None:
    """Seeded normal weights. What writes into the residual stream starts small, so that depth keeps its scale."""
    generator = torch.Generator().manual_seed(seed)
    residual_scale = (2 * network.shape.num_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() < 2:
                continue
            std = 0.02 if "embed" in name else parameter.shape[1] ** -0.5 * 0.6
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= residual_scale
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
