"""From the fused QKV projection to attention: optional norm of queries and keys, rotary embedding, and keys and
values into their slots of the cache."""

from __future__ import annotations

import torch

from kernels import native
from kernels.norm import rms_norm_reference
from kernels.paged import KVCache, Rows

__all__ = ["rotary_into_cache", "rotary_into_cache_reference"]


def rotary_into_cache(
    qkv: torch.Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim] float32
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    cosines: torch.Tensor,  # [positions, head_dim / 2] float32
    sines: torch.Tensor,  # [positions, head_dim / 2] float32
    query_norm: torch.Tensor | None,  # [head_dim] float32
    key_norm: torch.Tensor | None,  # [head_dim] float32
    eps: float,
) -> torch.Tensor:
    """Queries [rows, heads * head_dim] in the cache's type; keys and values are written to `rows.write_slots`.

    Rotation pairs element i with i + head_dim / 2, as Hugging Face checkpoints do.
    """
    library = native.library() if qkv.device.type == "cpu" else None
    if library is None:
        return rotary_into_cache_reference(
            qkv, rows, cache, layer, cosines=cosines, sines=sines, query_norm=query_norm, key_norm=key_norm, eps=eps
        )
    heads = qkv.shape[1] // cache.head_dim - 2 * cache.num_kv_heads
    queries = torch.empty(rows.count, heads * cache.head_dim, dtype=cache.dtype)
    library.specfleet_rotary_into_cache(
        native.KINDS[cache.dtype],
        native.num_threads(),
        qkv.data_ptr(),
        rows.native,
        heads,
        cache.num_kv_heads,
        cache.head_dim,
        native.address(query_norm),
        native.address(key_norm),
        eps,
        cosines.data_ptr(),
        sines.data_ptr(),
        queries.data_ptr(),
        *cache.addresses[layer],
    )
    return queries


def rotary_into_cache_reference(
    qkv: torch.Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim] float32
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    cosines: torch.Tensor,  # [positions, head_dim / 2] float32
    sines: torch.Tensor,  # [positions, head_dim / 2] float32
    query_norm: torch.Tensor | None,  # [head_dim] float32
    key_norm: torch.Tensor | None,  # [head_dim] float32
    eps: float,
) -> torch.Tensor:
    """The plain meaning."""
    d, kv_heads = cache.head_dim, cache.num_kv_heads
    heads = qkv.shape[1] // d - 2 * kv_heads
    projected = qkv.view(rows.count, -1, d)
    queries, keys, values = projected.tensor_split((heads, heads + kv_heads), dim=1)
    if query_norm is not None:
        queries = rms_norm_reference(queries, query_norm, eps, torch.float32)
    if key_norm is not None:
        keys = rms_norm_reference(keys, key_norm, eps, torch.float32)
    positions = rows.positions.long()
    cosine, sine = cosines[positions][:, None], sines[positions][:, None]
    cache.write(layer, rows.write_slots, _rotated(keys, cosine, sine).to(cache.dtype), values.to(cache.dtype))
    return _rotated(queries, cosine, sine).to(cache.dtype).flatten(1)


def _rotated(
    x: torch.Tensor,  # [rows, heads, head_dim]
    cosine: torch.Tensor,  # [rows, 1, head_dim / 2]
    sine: torch.Tensor,  # [rows, 1, head_dim / 2]
) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
