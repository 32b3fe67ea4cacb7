"""From the fused QKV projection to attention: optional norm of queries and keys, rotary embedding, and keys and
values into their slots of the cache."""

from __future__ import annotations

import torch

from kernels import gpu, native
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

    Rotation pairs element i with i + head_dim / 2, as Hugging Face checkpoints do. Here a quarter turn at position 0
    takes the query (1, 0) to (0, 1), and the key with it; the value goes to its slot as it is.

    >>> cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=2, dtype=torch.float32)
    >>> row = Rows.from_lists(positions=[0], write_slots=[4], num_in_table=[1], table_offsets=[0], tables=[0],
    ...                       tail_offsets=[0, 0], tail_slots=[])
    >>> rotary_into_cache(torch.tensor([[1.0, 0.0, 2.0, 0.0, 7.0, 8.0]]), row, cache, 0, cosines=torch.zeros(1, 1),
    ...                   sines=torch.ones(1, 1), query_norm=None, key_norm=None, eps=0.0)
    tensor([[0., 1.]])
    >>> cache.read(0, torch.tensor([4]))
    (tensor([[[0., 2.]]]), tensor([[[7., 8.]]]))
    """
    heads = _checked_heads(qkv, rows, cache, cosines, sines, query_norm, key_norm)
    if gpu.runs(qkv):
        from kernels.gpu.rotary import rotary_into_cache as on_gpu

        return on_gpu(
            qkv, rows, cache, layer, cosines=cosines, sines=sines, query_norm=query_norm, key_norm=key_norm, eps=eps
        )
    library = native.library() if qkv.device.type == "cpu" else None
    if library is None:
        return rotary_into_cache_reference(
            qkv, rows, cache, layer, cosines=cosines, sines=sines, query_norm=query_norm, key_norm=key_norm, eps=eps
        )
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


def _checked_heads(
    qkv: torch.Tensor,
    rows: Rows,
    cache: KVCache,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
) -> int:
    """The number of query heads; what does not fit is refused."""
    d, kv_heads = cache.head_dim, cache.num_kv_heads
    if d % 2:
        raise ValueError(f"head_dim must be even, for its halves are rotated together; got {d}")
    heads, rest = divmod(qkv.shape[-1] - 2 * kv_heads * d, d)
    if qkv.shape[:-1] != (rows.count,) or qkv.dtype != torch.float32 or rest or heads < 1 or not qkv.is_contiguous():
        raise ValueError(
            f"qkv must be contiguous float32 [{rows.count}, (heads + {2 * kv_heads}) * {d}], "
            f"got {qkv.dtype} {tuple(qkv.shape)}"
        )
    for name, table in (("cosines", cosines), ("sines", sines)):
        if table.dim() != 2 or table.shape[1] != d // 2 or table.dtype != torch.float32:
            raise ValueError(f"{name} must be float32 [positions, {d // 2}], got {table.dtype} {tuple(table.shape)}")
    for name, norm in (("query_norm", query_norm), ("key_norm", key_norm)):
        if norm is not None and (norm.shape != (d,) or norm.dtype != torch.float32):
            raise ValueError(f"{name} must be float32 [{d}], got {norm.dtype} {tuple(norm.shape)}")
    return heads


def _rotated(
    x: torch.Tensor,  # [rows, heads, head_dim]
    cosine: torch.Tensor,  # [rows, 1, head_dim / 2]
    sine: torch.Tensor,  # [rows, 1, head_dim / 2]
) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
