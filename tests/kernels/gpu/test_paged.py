"""Copies between slots on a GPU, in the interpreter."""

from __future__ import annotations

import pytest
import torch

from kernels.paged import KVCache
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, normal, same_bits


def check(dtype: torch.dtype, head_dim: int, *, wide: bool) -> None:
    """A path whose targets are other nodes' sources, as accepted nodes are moved into their places."""
    caches = [
        KVCache(
            num_layers=2,
            num_blocks=3,
            num_kv_heads=2,
            head_dim=head_dim,
            dtype=dtype,
            key_width=head_dim if wide else None,
        )
        for _ in range(2)
    ]
    slots = torch.arange(48)
    for cache in caches:
        for layer in range(2):
            cache.write(layer, slots, *(normal(48, 2, head_dim, seed=layer + 5 * i, dtype=dtype) for i in (0, 1)))
    sources, targets = torch.tensor([18, 19, 40, 3]), torch.tensor([17, 18, 19, 40], dtype=torch.int32)
    caches[0].copy(sources, targets)
    with interpreter():
        caches[1].copy(sources, targets)
    for kept, found in zip((caches[0].keys, caches[0].values), (caches[1].keys, caches[1].values), strict=True):
        assert same_bits(kept, found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "wide"), [(20, True), (32, False), (80, True)])
def test_all_sources_are_read_before_any_target_is_written(dtype: torch.dtype, head_dim: int, wide: bool) -> None:
    check(dtype, head_dim, wide=wide)


def test_nothing_to_copy_is_no_error() -> None:
    cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=4, dtype=torch.float32)
    nothing = torch.empty(0, dtype=torch.int64)
    with interpreter():
        cache.copy(nothing, nothing)


def test_lists_of_different_length_are_refused() -> None:
    cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=4, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"\[n\] both, got \(2,\) and \(1,\)"):
        cache.copy(torch.tensor([1, 2]), torch.tensor([3]))
