"""Attention on a GPU, in the interpreter: right, and each row by itself, whatever lies around it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import random
from collections.abc import Iterator

import pytest
import torch

from kernels.attention import attention as kernel
from kernels.attention import attention_reference
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, ROUNDING, assert_close, normal, same_bits
from tests.kernels.scenes import Layout, Scene, differing_layouts, make_scene, random_layout, run

SHAPES = [  # kv_heads, query heads of each, head_dim, window
    (1, 1, 16, 0),
    (2, 1, 128, 0),
    (1, 4, 64, 23),
    (2, 2, 48, 0),
    (2, 3, 80, 5),
    (1, 5, 32, 1),
    (1, 7, 96, 0),
    (1, 2, 256, 0),
    (3, 6, 20, 40),
    (1, 33, 16, 0),  # a group larger than a tile
]
# The ends of the last two of three texts, each with two earlier rows of its own beside it (where three rows were drawn
# of each): they read together what all of them see.
SIDE_BY_SIDE = Layout(group=[2, 7, 8, 1, 5, 6], tails=[3, 0, 1, 0, 2, 0], seed=1)
# Weights are rounded to the cache's type before they meet the values; all sums are float32.
WEIGHT_ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}


@contextlib.contextmanager
def small_blocks() -> Iterator[None]:
    """The interpreter, with blocks and splits so small that a short context has several."""
    module = importlib.import_module("kernels.gpu.attention")  # the one in use: a test may have planted a bug in it
    with interpreter(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KEYS", 16)
        patch.setattr(module, "_SPLIT", 32)
        yield


def attention(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> torch.Tensor:
    return kernel(queries, rows, cache, layer, window=window)


def check(scene: Scene, layout: Layout) -> None:
    """Right up to rounding. A key of a hundred left out is off by 1e-2, in bfloat16 five times what is allowed."""
    found = run(attention, scene, layout)
    assert found.dtype == scene.dtype
    exact = torch.stack([scene.exact(row) for row in layout.group])
    sizes = dataclasses.replace(scene, values=[value.abs() for value in scene.values])
    mean_size = torch.stack([sizes.exact(row) for row in layout.group])
    assert_close(found, exact, rtol=ROUNDING[scene.dtype], atol=3e-6 + WEIGHT_ROUNDING[scene.dtype] * mean_size)


def scene_of(shape: tuple[int, int, int, int], dtype: torch.dtype, *, lengths: list[int], rows: int = 2) -> Scene:
    kv_heads, group, head_dim, window = shape
    return make_scene(
        head_dim,
        dtype=dtype,
        kv_heads=kv_heads,
        group=group,
        head_dim=head_dim,
        lengths=lengths,
        rows_per_sequence=rows,
        window=window,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_up_to_rounding(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    scene = scene_of(shape, dtype, lengths=[1, 47, 17])
    with small_blocks():
        check(scene, random_layout(scene, random.Random(shape[2]), max_rows=4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_with_the_blocks_of_the_device(dtype: torch.dtype) -> None:
    scene = scene_of((1, 4, 64, 0), dtype, lengths=[300])
    with interpreter():
        check(scene, Layout(group=[0, 1], tails=[3, 0], seed=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2, 16, 0), (1, 3, 32, 21)], ids=str)
def test_rows_depend_on_their_keys_alone(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Neighbours, their order, block tables, tree slots for any end of the path, garbage, splits and windows."""
    scene = scene_of(shape, dtype, lengths=[2, 33, 70], rows=3)
    layouts = [SIDE_BY_SIDE, random_layout(scene, random.Random(shape[2]), max_rows=4)]
    with small_blocks():
        assert differing_layouts(attention, scene, layouts) == []


@pytest.mark.parametrize("key_width", [2, 32])
def test_a_tree_shares_its_nodes(key_width: int) -> None:
    """Nodes of one tree, more than a word of bits: each sees its own path, in both layouts of keys."""
    queries, rows, cache = tree_of(num_nodes=37, num_committed=21, key_width=key_width)
    with small_blocks():
        found = attention(queries, rows, cache, 0, 0)
    reference = attention_reference(queries, rows, cache, 0, window=0)
    assert_close(found, reference.double(), rtol=2.0**-7, atol=2.0**-8)


def tree_of(*, num_nodes: int, num_committed: int, key_width: int) -> tuple[torch.Tensor, Rows, KVCache]:
    """Rows of a random tree below committed tokens, its nodes in scattered slots."""
    rng = random.Random(num_nodes)
    cache = KVCache(num_layers=1, num_blocks=8, num_kv_heads=1, head_dim=32, dtype=torch.bfloat16, key_width=key_width)
    slots = rng.sample(range(2 * BLOCK_TOKENS, 8 * BLOCK_TOKENS), num_nodes)
    paths: list[list[int]] = []
    for slot in slots:
        parent = rng.choice([[], *paths[-6:]])
        paths.append([*parent, slot])
    written = torch.tensor([*range(num_committed), *slots])
    cache.write(0, written, *(normal(len(written), 1, 32, seed=i, dtype=torch.bfloat16) for i in (1, 2)))
    ends = torch.tensor([0, *map(len, paths)]).cumsum(0).tolist()
    rows = Rows.from_lists(
        positions=[num_committed + len(path) - 1 for path in paths],
        write_slots=slots,
        num_in_table=[num_committed] * num_nodes,
        table_offsets=[0] * num_nodes,
        tables=[0, 1],
        tail_offsets=ends,
        tail_slots=[slot for path in paths for slot in path],
    )
    return normal(num_nodes, 32, seed=3, dtype=torch.bfloat16), rows, cache


@pytest.mark.parametrize("kind", ["query", "key", "value"])
def test_nan_stays_in_the_row_that_sees_it_and_is_seen_there(kind: str) -> None:
    scene = make_scene(5, dtype=torch.float32, kv_heads=1, group=2, head_dim=16, lengths=[9, 40], rows_per_sequence=2)
    layout = Layout(group=[0, 1, 2, 3], tails=[0, 2, 0, 1], seed=1)
    with small_blocks():
        clean = run(attention, scene, layout)
        if kind == "query":
            scene.queries[0] = float("nan")
        else:
            (scene.keys if kind == "key" else scene.values)[0][8, :, 3] = float("nan")  # seen by row 0 alone
        dirty = run(attention, scene, layout)
    assert same_bits(dirty[1:], clean[1:])
    assert dirty[0].isnan().all() if kind != "value" else dirty[0].view(2, 16)[:, 3].isnan().all()


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    queries, rows, cache = tree_of(num_nodes=3, num_committed=1, key_width=2)
    with pytest.raises(ValueError, match=r"\[3, heads \* head_dim\], got torch.bfloat16 \(2, 32\)"):
        attention(queries[:2], rows, cache, 0, 0)
    with pytest.raises(ValueError, match=r"got torch\.float32"):
        attention(queries.float(), rows, cache, 0, 0)
    with pytest.raises(ValueError, match="window must be"):
        attention(queries, rows, cache, 0, -1)


def test_what_a_launch_cannot_do_is_refused() -> None:
    """Matrices of fewer columns than an instruction takes, and more splits than a launch counts in one dimension."""
    row = Rows.from_lists(
        positions=[0],
        write_slots=[0],
        num_in_table=[1],
        table_offsets=[0],
        tables=[0],
        tail_offsets=[0, 0],
        tail_slots=[],
    )
    small = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=8, dtype=torch.float32)
    with interpreter(), pytest.raises(ValueError, match="on a GPU head_dim must be at least 16, got 8"):
        attention(torch.zeros(1, 8), row, small, 0, 0)
    assert attention(torch.zeros(1, 8), row, small, 0, 0).shape == (1, 8)
    cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=16, dtype=torch.float32)
    most = 65_535 * importlib.import_module("kernels.gpu.attention")._SPLIT
    row.use_tiles(32, dataclasses.replace(row.tiles(rows_per_tile=32), longest=most + 1))
    with interpreter(), pytest.raises(ValueError, match=f"a row sees at most {most} keys, got {most + 1}"):
        attention(torch.zeros(1, 16), row, cache, 0, 0)
