"""Copying accepted paths into their places, all layers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.kernels.case import Case, GpuCase, Sizes
from kernels import native
from kernels.paged import BLOCK_TOKENS, KVCache

__all__ = ["cases", "gpu_cases"]

_NUM_BLOCKS = 64


def cases() -> Iterator[Case]:
    """There is one form on the CPU: torch's."""
    cache, sources, targets = _input(8, 24, 8, 64, "cpu")

    def reference() -> None:
        with native.reference_only():
            cache.copy(sources, targets)

    yield Case(
        name="8 tokens, 24 layers",
        fast=partial(cache.copy, sources, targets),
        reference=reference,
        num_bytes=_num_bytes(cache, 8),
    )


def gpu_cases(sizes: Sizes, device: str) -> Iterator[GpuCase]:
    """From other places to other places of one cache, which is larger than what the GPU keeps at hand."""
    from kernels.gpu.paged import copy_slots

    for num_tokens in sizes.row_counts:
        cache, sources, targets = _input(num_tokens, sizes.layers, sizes.kv_heads, sizes.head_dim, device)

        def found(
            cache: KVCache = cache, sources: torch.Tensor = sources, targets: torch.Tensor = targets
        ) -> torch.Tensor:
            cache.copy(sources, targets)
            return torch.cat(cache.read(cache.num_layers - 1, targets))

        def other(cache: KVCache = cache, num_tokens: int = num_tokens) -> Callable[[], object]:
            slots = _slots(cache, num_tokens).to(device)
            return partial(copy_slots, cache.keys, cache.values, slots[0], slots[1])

        yield GpuCase(
            name=f"{num_tokens} tokens, {sizes.layers} layers",
            run=other(),
            found=found,
            exact=partial(_exact, cache, sources),
            most_error=0.0,
            num_bytes=_num_bytes(cache, num_tokens),
            other=other,
        )


def _input(
    num_tokens: int, num_layers: int, kv_heads: int, head_dim: int, device: str
) -> tuple[KVCache, torch.Tensor, torch.Tensor]:
    """Sources and targets lie apart, so that copying again gives the same."""
    cache = KVCache(
        num_layers=num_layers,
        num_blocks=max(_NUM_BLOCKS, num_tokens // 4),
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=torch.bfloat16,
        device=device,
    )
    cache.keys.normal_()
    cache.values.normal_()
    sources, targets = _slots(cache, num_tokens)
    return cache, sources, targets


def _slots(cache: KVCache, num_tokens: int) -> torch.Tensor:
    """Sources and targets [2, tokens] on the host, none of them twice."""
    return torch.randperm(BLOCK_TOKENS * cache.num_blocks)[: 2 * num_tokens].view(2, -1)


def _exact(cache: KVCache, sources: torch.Tensor) -> torch.Tensor:
    return torch.cat(cache.read(cache.num_layers - 1, sources)).double()


def _num_bytes(cache: KVCache, num_tokens: int) -> int:
    """Read once and written once."""
    return 2 * num_tokens * cache.num_layers * 2 * cache.num_kv_heads * cache.head_dim * cache.dtype.itemsize
