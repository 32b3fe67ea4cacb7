"""Rotary embedding into the cache: right, in the right slots, and each row by itself."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from kernels.rotary import rotary_into_cache
from tests.kernels.rig import (
    DTYPES,
    FORMS,
    ROUNDING,
    assert_close,
    bits,
    dependent_rows,
    form,
    hard_to_round,
    normal,
    require_library,
    same_bits,
    with_bad_row,
)

NUM_BLOCKS = 5
NUM_POSITIONS = 200
EPS = 1e-6


def tables_of_angles(head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = 10000.0 ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(NUM_POSITIONS, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def garbage_cache(dtype: torch.dtype, kv_heads: int, head_dim: int) -> KVCache:
    cache = KVCache(num_layers=2, num_blocks=NUM_BLOCKS, num_kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    return cache


def rows_at(positions: list[int], slots: list[int]) -> Rows:
    n = len(positions)
    return Rows.from_lists(
        positions=positions,
        write_slots=slots,
        num_in_table=[p + 1 for p in positions],
        table_offsets=[0] * n,
        tables=[0] * -(-NUM_POSITIONS // BLOCK_TOKENS),
        tail_offsets=[0] * (n + 1),
        tail_slots=[],
    )


def run(
    qkv: torch.Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim]
    positions: list[int],
    slots: list[int],
    dtype: torch.dtype,
    *,
    kv_heads: int,
    head_dim: int,
    norms: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, KVCache]:
    """Queries, and the keys and values found in the slots: [rows, heads, head_dim] each; and the cache."""
    cache = garbage_cache(dtype, kv_heads, head_dim)
    cosines, sines = tables_of_angles(head_dim)
    queries = rotary_into_cache(
        qkv,
        rows_at(positions, slots),
        cache,
        1,
        cosines=cosines,
        sines=sines,
        query_norm=norms[0] if norms else None,
        key_norm=norms[1] if norms else None,
        eps=EPS,
    )
    return queries.view(len(positions), -1, head_dim), *cache.read(1, torch.tensor(slots)), cache


def exact(
    qkv: torch.Tensor,
    positions: list[int],
    *,
    kv_heads: int,
    head_dim: int,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By complex numbers: element i and i + half are one number, turned by the angle of its position."""
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    every = qkv.double().view(len(positions), -1, head_dim)
    parts = every[:, :heads], every[:, heads : heads + kv_heads], every[:, heads + kv_heads :]
    cosines, sines = (x.double()[positions][:, None] for x in tables_of_angles(head_dim))
    turned = []
    for x, norm in zip(parts[:2], norms or (None, None), strict=True):
        if norm is not None:
            x = x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * norm.double()
        number = torch.complex(x[..., : head_dim // 2], x[..., head_dim // 2 :]) * torch.complex(cosines, sines)
        turned.append(torch.cat([number.real, number.imag], dim=-1))
    return turned[0], turned[1], parts[2]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**30),
    count=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (5, 1), (6, 2), (7, 1)]),
    head_dim=st.sampled_from([2, 16, 18, 20, 32, 48, 64, 128]),
    has_norms=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
    name=st.sampled_from(FORMS),
)
def test_exact_up_to_rounding_and_in_its_slots_alone(
    seed: int,
    count: int,
    dtype: torch.dtype,
    heads: tuple[int, int],
    head_dim: int,
    has_norms: bool,
    scale: float,
    name: str,
) -> None:
    rng = random.Random(seed)
    qkv = normal(count, (heads[0] + 2 * heads[1]) * head_dim, seed=seed) * scale
    positions = [rng.randrange(NUM_POSITIONS) for _ in range(count)]
    slots = rng.sample(range(NUM_BLOCKS * BLOCK_TOKENS), count)
    norms = (normal(head_dim, seed=seed + 1), normal(head_dim, seed=seed + 2)) if has_norms else None
    with form(name):
        queries, keys, values, cache = run(
            qkv, positions, slots, dtype, kv_heads=heads[1], head_dim=head_dim, norms=norms
        )
    wanted = exact(qkv, positions, kv_heads=heads[1], head_dim=head_dim, norms=norms)
    # A rotated element is a difference of two products: its error is relative to the pair, not to itself.
    for found, right in zip((queries, keys), wanted[:2], strict=True):
        pair = right.pow(2).view(*right.shape[:2], 2, -1).sum(2).sqrt().repeat(1, 1, 2)
        assert_close(found, right, rtol=ROUNDING[dtype], atol=pair * 1.5e-6)
    assert same_bits(values, wanted[2].float().to(dtype))
    untouched = sorted(set(range(NUM_BLOCKS * BLOCK_TOKENS)) - set(slots))
    assert all(x.isnan().all() for x in cache.read(1, torch.tensor(untouched)))
    assert all(x.isnan().all() for x in cache.read(0, torch.arange(NUM_BLOCKS * BLOCK_TOKENS)))


@pytest.mark.parametrize("head_dim", [18, 64])
def test_values_are_rounded_as_torch_rounds_them(head_dim: int) -> None:
    require_library()
    given_values = hard_to_round(10 * head_dim, seed=5).view(10, head_dim)
    qkv = torch.cat([normal(10, 2 * head_dim, seed=6), given_values], dim=1)
    values = run(qkv, list(range(10)), list(range(10)), torch.bfloat16, kv_heads=1, head_dim=head_dim)[2][:, 0]
    is_number = ~given_values.isnan()
    assert same_bits(values[is_number], given_values.to(torch.bfloat16)[is_number])
    assert values[~is_number].isnan().all()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**30),
    dtype=st.sampled_from(DTYPES),
    heads=st.sampled_from([(4, 4), (4, 2), (5, 1)]),
    head_dim=st.sampled_from([2, 16, 18, 64]),
)
def test_without_norms_native_is_the_reference_bit_for_bit(
    seed: int, dtype: torch.dtype, heads: tuple[int, int], head_dim: int
) -> None:
    """Two products, one sum, one rounding each: there is nothing to differ in."""
    require_library()
    rng = random.Random(seed)
    qkv = normal(9, (heads[0] + 2 * heads[1]) * head_dim, seed=seed)
    positions, slots = [rng.randrange(NUM_POSITIONS) for _ in range(9)], rng.sample(range(80), 9)
    fast = run(qkv, positions, slots, dtype, kv_heads=heads[1], head_dim=head_dim)
    with native.reference_only():
        plain = run(qkv, positions, slots, dtype, kv_heads=heads[1], head_dim=head_dim)
    assert all(same_bits(x, y) for x, y in zip(fast[:3], plain[:3], strict=True))


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**30),
    dtype=st.sampled_from(DTYPES),
    head_dim=st.sampled_from([16, 18, 64, 1024]),
    has_norms=st.booleans(),
)
@example(seed=0, dtype=torch.bfloat16, head_dim=1024, has_norms=True)  # enough work for three members
def test_rows_do_not_depend_on_their_neighbours(seed: int, dtype: torch.dtype, head_dim: int, has_norms: bool) -> None:
    """The operation with everything that it leaves behind: a row's queries, keys and values."""
    require_library()
    norms = (normal(head_dim, seed=seed + 1), normal(head_dim, seed=seed + 2)) if has_norms else None
    rng = random.Random(seed)
    positions = [rng.randrange(NUM_POSITIONS) for _ in range(10)]
    # A row carries its position in a last column, so that it keeps it in every group.
    x = torch.cat([normal(10, 7 * head_dim, seed=seed), torch.tensor(positions)[:, None].float()], dim=1)

    def operation(some: torch.Tensor) -> torch.Tensor:
        slots = rng.sample(range(NUM_BLOCKS * BLOCK_TOKENS), len(some))
        queries, keys, values, _ = run(
            some[:, :-1].contiguous(),
            some[:, -1].int().tolist(),
            slots,
            dtype,
            kv_heads=2,
            head_dim=head_dim,
            norms=norms,
        )
        return torch.cat([queries, keys, values], dim=1).flatten(1)

    assert dependent_rows(operation, x, seed) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
def test_a_bad_row_reaches_no_other(name: str, dtype: torch.dtype) -> None:
    qkv, positions, slots = normal(5, 4 * 16, seed=0), [3, 1, 4, 1, 5], [9, 2, 6, 5, 3]
    norms = (normal(16, seed=1), normal(16, seed=2))
    with form(name):
        clean, dirty = (
            run(x, positions, slots, dtype, kv_heads=1, head_dim=16, norms=norms)[:3]
            for x in (qkv, with_bad_row(qkv, 2))
        )
    for before, after in zip(clean, dirty, strict=True):
        others = [0, 1, 3, 4]
        assert torch.equal(bits(before[others]), bits(after[others]))
        assert not after[2].isfinite().any()


def test_position_zero_turns_nothing_and_every_turn_keeps_lengths() -> None:
    qkv = normal(3, 3 * 32, seed=0)
    queries, _, _, _ = run(qkv, [0, 7, 199], [0, 1, 2], torch.float32, kv_heads=1, head_dim=32)
    assert torch.equal(queries[0, 0], qkv[0, :32])
    assert not torch.equal(queries[1, 0], qkv[1, :32])
    assert torch.allclose(queries[:, 0].norm(dim=-1), qkv[:, :32].norm(dim=-1), rtol=1e-6)
