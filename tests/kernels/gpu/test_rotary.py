"""From the fused projection into the cache on a GPU, in the interpreter."""

from __future__ import annotations

import pytest
import torch

from kernels.paged import KVCache, Rows
from kernels.rotary import rotary_into_cache, rotary_into_cache_reference
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, ROUNDING, assert_close, normal, same_bits

EPS = 1e-6
SLOTS = [5, 40, 17]
SHAPES = [  # heads, kv_heads, head_dim, whether queries and keys are normed
    (1, 1, 16, False),
    (4, 2, 80, True),
    (6, 3, 20, False),
    (7, 1, 64, True),
    (2, 2, 128, False),
    (2, 1, 256, True),
]


def check(shape: tuple[int, int, int, bool], dtype: torch.dtype, *, wide: bool) -> None:
    """Against the reference in float64's place: float32 arithmetic in another order, then one rounding."""
    heads, kv_heads, d, normed = shape
    caches = [
        KVCache(num_layers=2, num_blocks=3, num_kv_heads=kv_heads, head_dim=d, dtype=dtype, key_width=width)
        for width in (d if wide else None, None)
    ]
    for cache in caches:
        cache.keys.fill_(7.0)
        cache.values.fill_(7.0)
    rows = Rows.from_lists(
        positions=[0, 9, 3],
        write_slots=SLOTS,
        num_in_table=[1, 10, 4],
        table_offsets=[0, 0, 0],
        tables=[0],
        tail_offsets=[0, 0, 0, 0],
        tail_slots=[],
    )
    angles = normal(10, d // 2, seed=1)
    qkv = normal(3, (heads + 2 * kv_heads) * d, seed=2)
    norms = (normal(d, seed=3), normal(d, seed=4)) if normed else (None, None)
    queries = []
    for form, cache in zip((rotary_into_cache, rotary_into_cache_reference), caches, strict=True):
        with interpreter():
            queries.append(
                form(
                    qkv,
                    rows,
                    cache,
                    1,
                    cosines=angles.cos(),
                    sines=angles.sin(),
                    query_norm=norms[0],
                    key_norm=norms[1],
                    eps=EPS,
                )
            )
    assert queries[0].dtype == dtype
    tolerance = {"rtol": 2e-6 + 2 * ROUNDING[dtype], "atol": 2e-6}
    assert_close(queries[0], queries[1].double(), **tolerance)
    every = torch.arange(48)
    found, expected = (cache.read(1, every) for cache in caches)
    assert_close(found[0], expected[0].double(), **tolerance)
    assert same_bits(found[1], expected[1])  # values are only rounded
    others = torch.tensor([slot for slot in range(48) if slot not in SLOTS])
    assert all(bool((x[others] == 7.0).all()) for x in found)
    assert all(bool((x[0] == 7.0).all()) for x in (caches[0].keys, caches[0].values))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_right_up_to_rounding(shape: tuple[int, int, int, bool], dtype: torch.dtype) -> None:
    check(shape, dtype, wide=shape[0] % 2 == 0)


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=4, dtype=torch.float32)
    rows = Rows.from_lists(
        positions=[0],
        write_slots=[0],
        num_in_table=[1],
        table_offsets=[0],
        tables=[0],
        tail_offsets=[0, 0],
        tail_slots=[],
    )

    def call(
        qkv: torch.Tensor, angles: torch.Tensor, sines: torch.Tensor, key_norm: torch.Tensor | None = None
    ) -> None:
        rotary_into_cache(qkv, rows, cache, 0, cosines=angles, sines=sines, query_norm=None, key_norm=key_norm, eps=EPS)

    qkv, angles = torch.zeros(1, 12), torch.zeros(1, 2)
    with pytest.raises(
        ValueError, match=r"qkv must be \[1, \(heads \+ 2\) \* 4\] with at least one head, got \(1, 8\)"
    ):
        call(qkv[:, :8], angles, angles)
    with pytest.raises(ValueError, match=r"got torch.float32 \(2, 12\)"):
        call(qkv.expand(2, -1).contiguous(), angles, angles)
    with pytest.raises(ValueError, match=r"sines must be contiguous float32 \[1, 2\], got torch.float32 \(1, 3\)"):
        call(qkv, angles, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"key_norm must be contiguous float32 \[4\]"):
        call(qkv, angles, angles, torch.zeros(5))
