"""From the fused QKV projection to attention: optional norm of queries and keys, rotary embedding, and keys and
values into their slots of the cache."""

from __future__ import annotations

import torch

from kernels import gpu, native
from kernels.checks import check_tensor
from kernels.norm import rms_norm_reference
from kernels.paged import BLOCK_TOKENS, KVCache, Rows

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
    heads = _checked_heads(qkv, rows, cache, layer, cosines, sines, query_norm, key_norm)
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
    layer: int,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
) -> int:
    """The number of query heads; what does not fit is refused."""
    d, kv_heads = cache.head_dim, cache.num_kv_heads
    if d % 2:
        raise ValueError(f"head_dim must be even, for its halves are rotated together; got {d}")
    columns = f"(heads + {2 * kv_heads}) * {d}"
    check_tensor("qkv", qkv, (rows.count, columns), torch.float32)
    heads, rest = divmod(qkv.shape[1] - 2 * kv_heads * d, d)
    if rest or heads < 1:
        raise ValueError(f"qkv must be [{rows.count}, {columns}] with at least one head, got {tuple(qkv.shape)}")
    if not 0 <= layer < cache.num_layers:
        raise ValueError(f"layer must be 0 to {cache.num_layers - 1}, got {layer}")
    check_tensor("cosines", cosines, ("positions", d // 2), torch.float32)
    check_tensor("sines", sines, (cosines.shape[0], d // 2), torch.float32)
    for name, norm in (("query_norm", query_norm), ("key_norm", key_norm)):
        if norm is not None:
            check_tensor(name, norm, (d,), torch.float32)
    if rows.flat.device.type == "cpu":  # numbers on a GPU are not looked at, for the host would wait
        _check_places(rows, cosines.shape[0], cache.num_blocks * BLOCK_TOKENS)
    return heads


def _check_places(rows: Rows, num_positions: int, num_slots: int) -> None:
    """Refuses positions without an angle and slots outside the cache."""
    if rows.is_known_to_fit(into := ("places", num_positions, num_slots)):
        return
    for name, numbers, end in (
        ("positions", rows.positions.numpy(), num_positions),
        ("write_slots", rows.write_slots.numpy(), num_slots),
    ):
        least, most = numbers.min(), numbers.max()
        if least < 0 or most >= end:
            raise ValueError(f"{name} must be 0 to {end - 1}, got {least} to {most}")
    rows.note_fit(into)


def _rotated(
    x: torch.Tensor,  # [rows, heads, head_dim]
    cosine: torch.Tensor,  # [rows, 1, head_dim / 2]
    sine: torch.Tensor,  # [rows, 1, head_dim / 2]
) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
