"""Tiles say the same about rows as the rows do, in tables of fixed width."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.paged import BLOCK_TOKENS, Rows


def forest(seed: int, num_sequences: int, num_rows: int) -> Rows:
    """Rows of several sequences: chunks of a prompt, and trees whose nodes lie anywhere."""
    rng = random.Random(seed)
    positions: list[int] = []
    num_in_table: list[int] = []
    offsets: list[int] = []
    tails: list[list[int]] = []
    tables: list[int] = []
    for _ in range(num_sequences):
        committed = rng.randint(1, 40)
        offset, paths = len(tables), [[rng.randrange(1000)]]
        tables += [rng.randrange(100) for _ in range(-(-(committed + 40) // BLOCK_TOKENS))]
        for index in range(rng.randint(1, num_rows)):
            if rng.random() < 0.3:
                positions.append(committed + index - 1)
                num_in_table.append(committed + index)
                tails.append([])
            else:
                paths.append([*rng.choice(paths[-4:]), 1000 + len(tails)])
                positions.append(committed + len(paths[-1]) - 1)
                num_in_table.append(committed)
                tails.append(paths[-1])
            offsets.append(offset)
    return Rows.from_lists(
        positions=positions,
        write_slots=[0] * len(positions),
        num_in_table=num_in_table,
        table_offsets=offsets,
        tables=tables,
        tail_offsets=torch.tensor([0, *map(len, tails)]).cumsum(0).tolist(),
        tail_slots=[slot for tail in tails for slot in tail],
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**30),
    num_sequences=st.integers(1, 4),
    num_rows=st.sampled_from([1, 5, 50]),
    rows_per_tile=st.sampled_from([1, 3, 8, 64]),
)
def test_every_row_is_in_one_tile_with_its_path(
    seed: int, num_sequences: int, num_rows: int, rows_per_tile: int
) -> None:
    rows = forest(seed, num_sequences, num_rows)
    tiles = rows.tiles(rows_per_tile=rows_per_tile)
    assert rows.tiles(rows_per_tile=rows_per_tile) is tiles
    assert tiles.longest == int(rows.positions.max()) + 1
    assert tiles.num_nodes % 32 == 0
    assert tiles.num_nodes & (tiles.num_nodes - 1) == 0
    covered: list[int] = []
    for tile, (first, count, shared) in enumerate(tiles.bounds.tolist()):
        members = range(first, first + count)
        covered += members
        assert 1 <= count <= rows_per_tile
        assert len({int(rows.table_offsets[row]) for row in members}) == 1
        assert shared == min(int(rows.num_in_table[row]) for row in members)
        for row in members:
            words = tiles.bitmaps[row].tolist()
            ancestors = [node for node in range(tiles.num_nodes) if words[node // 32] >> node % 32 & 1]
            path = rows.slots_in_order(row)[int(rows.num_in_table[row]) :].tolist()
            assert [int(tiles.nodes[tile, node]) for node in ancestors] == path
    assert covered == list(range(rows.count))


def test_a_step_without_rows_has_no_tiles() -> None:
    rows = Rows(torch.zeros(1, dtype=torch.int32), 0, 0)
    assert (rows.tiles(rows_per_tile=4).count, rows.tiles(rows_per_tile=4).longest) == (0, 0)
