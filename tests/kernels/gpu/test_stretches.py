"""Attention that takes its rows in stretches: within its bound, and each row with the bits that it has in one go."""

from __future__ import annotations

import importlib
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.paged import Rows
from kernels.scratch import SCRATCH_BYTES, scratch_bytes, stretches
from kernels.tiles import Tiles
from tests.kernels.gpu.test_attention import SIDE_BY_SIDE, attention, scene_of, small_blocks, tree_of
from tests.kernels.rig import same_bits
from tests.kernels.scenes import Layout, Scene, random_layout, run


@given(st.lists(st.integers(1, 8), min_size=1, max_size=40), st.integers(1, 30))
def test_every_tile_is_in_one_stretch_within_the_bound(sizes: list[int], most_rows: int) -> None:
    first_rows = [sum(sizes[:index]) for index in range(len(sizes))]
    found = stretches(first_rows, sum(sizes), most_rows)
    assert [tile for each in found for tile in range(each.first_tile, each.first_tile + each.num_tiles)] == list(
        range(len(sizes))
    )
    for each, following in zip(found, [*found[1:], None], strict=True):
        assert each.first_row == first_rows[each.first_tile]
        assert each.num_rows == sum(sizes[each.first_tile : each.first_tile + each.num_tiles])
        assert each.num_rows <= most_rows or each.num_tiles == 1
        if following is not None:
            assert each.num_rows + sizes[following.first_tile] > most_rows, "it could have gone with the one before"


@pytest.mark.parametrize(("dtype", "num_rows"), [(torch.float32, 1), (torch.bfloat16, 3), (torch.float32, 5)], ids=str)
def test_rows_in_stretches_have_the_bits_of_rows_together(
    dtype: torch.dtype, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where not even a tile is within the bound, so that tiles are made smaller."""
    scene = scene_of((1, 2, 16, 0), dtype, lengths=[2, 33, 70], rows=3)
    module = importlib.import_module("kernels.gpu.attention")
    launched: list[int] = []
    in_stretches = module._in_stretches

    def seen(*args: object) -> object:
        tiles, parts = in_stretches(*args)
        launched.extend(part.num_rows for part in parts)
        return tiles, parts

    for layout in (SIDE_BY_SIDE, random_layout(scene, random.Random(1), max_rows=9)):
        with small_blocks():
            together = run(attention, scene, layout)
            with monkeypatch.context() as patch:
                patch.setattr(
                    module, "_SCRATCH_BYTES", scratch_bytes(num_rows, longest(scene, layout), 2, 16, split=32)
                )
                patch.setattr(module, "_in_stretches", seen)
                assert same_bits(run(attention, scene, layout), together)
    assert max(launched) <= num_rows
    assert len(launched) > 2


def longest(scene: Scene, layout: Layout) -> int:
    return max(scene.row_positions[row] for row in layout.group) + 1


def test_rows_that_change_in_place_are_never_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured graph has the launches of its first rows: it must not be made of rows that need several."""
    queries, rows, cache = tree_of(num_nodes=9, num_committed=21, key_width=2)
    tiles = rows.tiles(rows_per_tile=32)
    fixed = Rows(rows.flat, rows.count, rows.num_table_entries)
    fixed.use_tiles(32, in_place(tiles))
    with small_blocks():
        whole = attention(queries, fixed, cache, 0, 0)
        assert same_bits(whole, attention(queries, rows, cache, 0, 0))
        module = importlib.import_module("kernels.gpu.attention")
        monkeypatch.setattr(module, "_SCRATCH_BYTES", scratch_bytes(8, tiles.longest, 1, 32, split=32))
        with pytest.raises(ValueError, match=r"9 rows whose numbers change in place, .* there may be 8 at most"):
            attention(queries, fixed, cache, 0, 0)


def in_place(tiles: Tiles) -> Tiles:
    return Tiles(
        count=tiles.count,
        num_nodes=tiles.num_nodes,
        longest=tiles.longest,
        first_rows=None,
        bounds=tiles.bounds,
        nodes=tiles.nodes,
        bitmaps=tiles.bitmaps,
    )


def test_a_row_of_a_large_model_stays_within_the_bound() -> None:
    """Of Llama 3.1 8B at the end of its context."""
    assert 15 * scratch_bytes(1, 131_072, 32, 128) < SCRATCH_BYTES < 16 * scratch_bytes(1, 131_072, 32, 128)
