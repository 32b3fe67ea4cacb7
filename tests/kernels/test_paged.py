"""The paged cache and the rows that point into it."""

from __future__ import annotations

import ctypes
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.native.memory import large_empty
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from tests.kernels.rig import DTYPES, bits, normal, same_bits

NUM_BLOCKS = 4
NUM_SLOTS = NUM_BLOCKS * BLOCK_TOKENS


def make_cache(dtype: torch.dtype, *, kv_heads: int = 2, head_dim: int = 6, num_layers: int = 3) -> KVCache:
    cache = KVCache(num_layers=num_layers, num_blocks=NUM_BLOCKS, num_kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    cache.keys.copy_(normal(*cache.keys.shape, seed=0))
    cache.values.copy_(normal(*cache.values.shape, seed=1))
    return cache


def all_tokens(cache: KVCache) -> torch.Tensor:
    """Everything in the cache by slot, as integers: [layers, slots, 2, kv_heads, head_dim]."""
    slots = torch.arange(NUM_SLOTS)
    return torch.stack([torch.stack([bits(x) for x in cache.read(i, slots)], 1) for i in range(cache.num_layers)])


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**30),
    dtype=st.sampled_from(DTYPES),
    kv_heads=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6, 16, 20]),
    count=st.integers(0, NUM_SLOTS),
)
def test_what_is_written_is_read_and_nothing_else_changes(
    seed: int, dtype: torch.dtype, kv_heads: int, head_dim: int, count: int
) -> None:
    cache = make_cache(dtype, kv_heads=kv_heads, head_dim=head_dim)
    slots = torch.randperm(NUM_SLOTS, generator=torch.Generator().manual_seed(seed))[:count].to(torch.int32)
    keys, values = (normal(count, kv_heads, head_dim, seed=seed + i, dtype=dtype) for i in (2, 3))
    expected = all_tokens(cache)
    expected[1, slots.long()] = torch.stack([bits(keys), bits(values)], 1)
    cache.write(1, slots, keys, values)
    assert torch.equal(all_tokens(cache), expected)
    read_keys, read_values = cache.read(1, slots)
    assert same_bits(read_keys, keys)
    assert same_bits(read_values, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_is_the_documented_one(dtype: torch.dtype) -> None:
    """keys [layers, blocks, kv_heads, head_dim / w, 16, w]; the C library reads them so."""
    cache = make_cache(dtype)
    width = 4 // dtype.itemsize
    assert cache.keys.shape == (3, NUM_BLOCKS, 2, 6 // width, BLOCK_TOKENS, width)
    assert cache.values.shape == (3, NUM_BLOCKS, 2, BLOCK_TOKENS, 6)
    key, value = normal(1, 2, 6, seed=5, dtype=dtype), normal(1, 2, 6, seed=6, dtype=dtype)
    cache.write(2, torch.tensor([2 * BLOCK_TOKENS + 11]), key, value)
    for head in range(2):
        for i in range(6):
            assert cache.keys[2, 2, head, i // width, 11, i % width] == key[0, head, i]
            assert cache.values[2, 2, head, 11, i] == value[0, head, i]


@settings(max_examples=25)
@given(
    dtype=st.sampled_from(DTYPES),
    sources=st.lists(st.integers(0, NUM_SLOTS - 1), max_size=20),
    seed=st.integers(0, 2**30),
)
def test_copies_read_everything_before_they_write(dtype: torch.dtype, sources: list[int], seed: int) -> None:
    """Sources and targets may overlap in any way, as when an accepted path moves up by a slot."""
    cache = make_cache(dtype)
    targets = random.Random(seed).sample(range(NUM_SLOTS), len(sources))
    expected = all_tokens(cache)
    expected[:, targets] = expected[:, sources].clone()
    cache.copy(torch.tensor(sources, dtype=torch.int64), torch.tensor(targets, dtype=torch.int64))
    assert torch.equal(all_tokens(cache), expected)


@pytest.mark.parametrize("step", [1, -1, 16])
def test_a_run_that_moves_onto_itself_arrives_whole(step: int) -> None:
    cache = make_cache(torch.bfloat16)
    sources = torch.arange(17, 45, dtype=torch.int32)
    expected = all_tokens(cache)
    expected[:, 17 + step : 45 + step] = expected[:, 17:45].clone()
    cache.copy(sources, sources + step)
    assert torch.equal(all_tokens(cache), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_a_block_are_what_it_takes(dtype: torch.dtype) -> None:
    cache = make_cache(dtype)
    taken = sum(x.numel() * x.element_size() for x in (cache.keys, cache.values))
    per_block = KVCache.bytes_per_block(num_layers=3, num_kv_heads=2, head_dim=6, dtype=dtype)
    assert per_block * NUM_BLOCKS == taken


def test_an_odd_head_is_refused_where_keys_lie_in_pairs() -> None:
    with pytest.raises(ValueError, match=r"head_dim 7 is not a multiple of 2"):
        KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=7, dtype=torch.bfloat16)


def test_large_memory_is_aligned_separate_and_outlives_its_neighbours() -> None:
    pieces = [large_empty((size,), torch.bfloat16) for size in (1, 31, 33, 5000)]
    for number, piece in enumerate(pieces):
        assert piece.data_ptr() % 64 == 0
        piece.fill_(number)
    assert all((piece == number).all() for number, piece in enumerate(pieces))
    huge = large_empty((80 * 2**20,), torch.uint8)  # more than one piece of the arena
    assert huge.shape == (80 * 2**20,)
    huge[-1] = 7
    assert int(huge[-1]) == 7


@st.composite
def row_lists(draw: st.DrawFn) -> tuple[Rows, list[list[int]]]:
    """Rows with shared tables and tails of any size, and the slots that each sees."""
    tables = [draw(st.permutations(range(40))) for _ in range(draw(st.integers(1, 3)))]
    tables = [table[: draw(st.integers(1, 4))] for table in tables]
    offsets = [sum(len(table) for table in tables[:i]) for i in range(len(tables))]
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        which = draw(st.integers(0, len(tables) - 1))
        in_table = draw(st.integers(0, BLOCK_TOKENS * len(tables[which])))
        tail = draw(st.lists(st.integers(640, 900), min_size=1 if in_table == 0 else 0, max_size=5))
        rows.append((which, in_table, tail))
    expected = [
        [tables[which][p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS for p in range(in_table)] + tail
        for which, in_table, tail in rows
    ]
    ends = [0]
    for _, _, tail in rows:
        ends.append(ends[-1] + len(tail))
    made = Rows.from_lists(
        positions=[len(slots) - 1 for slots in expected],
        write_slots=[slots[-1] for slots in expected],
        num_in_table=[in_table for _, in_table, _ in rows],
        table_offsets=[offsets[which] for which, _, _ in rows],
        tables=[block for table in tables for block in table],
        tail_offsets=ends,
        tail_slots=[slot for _, _, tail in rows for slot in tail],
    )
    return made, expected


@settings(max_examples=40)
@given(made=row_lists(), data=st.data())
def test_rows_list_their_slots_in_logical_order_and_keep_them_when_selected(
    made: tuple[Rows, list[list[int]]], data: st.DataObject
) -> None:
    rows, expected = made
    assert [rows.slots_in_order(row).tolist() for row in range(rows.count)] == expected
    numbers = sorted(data.draw(st.sets(st.integers(0, rows.count - 1))))
    kept = rows.select(torch.tensor(numbers, dtype=torch.int64))
    left = [expected[row] for row in numbers]
    assert kept.count == len(left)
    assert [kept.slots_in_order(row).tolist() for row in range(kept.count)] == left
    assert kept.write_slots.tolist() == [slots[-1] for slots in left]
    assert kept.positions.tolist() == [len(slots) - 1 for slots in left]
    assert kept.flat.dtype == torch.int32
    assert torch.equal(rows.select(torch.arange(rows.count)).flat, rows.flat)


@settings(max_examples=20)
@given(made=row_lists(), data=st.data())
def test_the_library_sees_the_same_rows(made: tuple[Rows, list[list[int]]], data: st.DataObject) -> None:
    """Read back through the addresses that the C side gets, after a selection too."""
    rows, expected = made
    numbers = sorted(data.draw(st.sets(st.integers(0, rows.count - 1))))
    for some, slots in (
        (rows, expected),
        (rows.select(torch.tensor(numbers, dtype=torch.int64)), [expected[row] for row in numbers]),
    ):
        seen = some.native
        assert seen.count == some.count
        for row, wanted in enumerate(slots):
            position, in_table, offset = (
                _int32(address, row) for address in (seen.positions, seen.num_in_table, seen.table_offsets)
            )
            blocks = [_int32(seen.tables, offset + i) for i in range(-(-in_table // BLOCK_TOKENS))]
            first, last = (_int32(seen.tail_offsets, row + i) for i in (0, 1))
            tail = [_int32(seen.tail_slots, i) for i in range(first, last)]
            table = [blocks[p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS for p in range(in_table)]
            assert table + tail == wanted
            assert (position, _int32(seen.write_slots, row)) == (len(wanted) - 1, wanted[-1])


def _int32(address: int, index: int) -> int:
    return ctypes.c_int32.from_address(address + 4 * index).value


def test_rows_that_list_too_few_keys_are_refused_with_both_counts() -> None:
    rows = Rows.from_lists(
        positions=[5],
        write_slots=[0],
        num_in_table=[3],
        table_offsets=[0],
        tables=[1],
        tail_offsets=[0, 1],
        tail_slots=[9],
    )
    with pytest.raises(ValueError, match=r"row 0 at position 5 lists 4 keys instead of 6"):
        rows.slots_in_order(0)
