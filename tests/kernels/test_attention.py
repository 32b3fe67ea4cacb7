"""Attention: right, and each row by itself, whatever lies around it."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.attention import attention as kernel
from kernels.paged import KVCache, Rows
from tests.kernels.rig import DTYPES, FORMS, ROUNDING, assert_close, form, normal, require_library, same_bits
from tests.kernels.scenes import (
    Attention,
    Layout,
    Scene,
    differing_layouts,
    lay_out,
    make_scene,
    random_layout,
    run,
    tidy,
)

LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 47, 100]
HEADS = [(1, 1), (2, 1), (1, 4), (2, 2), (2, 3), (1, 5), (1, 7), (3, 6), (1, 11)]  # kv_heads, query heads of each
HEAD_DIMS = [16, 32, 48, 64, 80, 96, 128]


def attention(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> torch.Tensor:
    return kernel(queries, rows, cache, layer, window=window)


def threaded(num_threads: int, scene: Scene, layout: Layout) -> torch.Tensor:
    with native.use_threads(num_threads):
        return run(attention, scene, layout)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**30),
    dtype=st.sampled_from(DTYPES),
    heads=st.sampled_from(HEADS),
    head_dim=st.sampled_from([*HEAD_DIMS, 20]),
    lengths=st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3),
    window=st.sampled_from([0, 0, 1, 5, 16, 23, 64]),
    scale=st.sampled_from([1e-3, 1.0, 8.0]),
    name=st.sampled_from(FORMS),
)
@example(seed=1, dtype=torch.bfloat16, heads=(2, 2), head_dim=64, lengths=[1040], window=0, scale=1.0, name="native")
@example(seed=2, dtype=torch.float32, heads=(1, 7), head_dim=16, lengths=[1025], window=1000, scale=1.0, name="native")
def test_exact_up_to_rounding(
    seed: int,
    dtype: torch.dtype,
    heads: tuple[int, int],
    head_dim: int,
    lengths: list[int],
    window: int,
    scale: float,
    name: str,
) -> None:
    """Values are of size one and weights sum to one, so float32 errs by a few units of 1e-7, more with larger scores.
    One key of a thousand left out is off by 1e-3.
    """
    kv_heads, group = heads
    scene = make_scene(
        seed,
        dtype=dtype,
        kv_heads=kv_heads,
        group=group,
        head_dim=head_dim,
        lengths=lengths,
        rows_per_sequence=3,
        window=window,
        scale=scale,
    )
    layout = random_layout(scene, random.Random(seed))
    with form(name):
        found = run(attention, scene, layout)
    assert found.dtype == dtype
    exact = torch.stack([scene.exact(row) for row in layout.group])
    assert_close(found, exact, rtol=ROUNDING[dtype], atol=3e-6 * max(1.0, scale))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**30),
    dtype=st.sampled_from(DTYPES),
    heads=st.sampled_from(HEADS),
    head_dim=st.sampled_from(HEAD_DIMS),
    lengths=st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4),
    window=st.sampled_from([0, 0, 1, 5, 16, 23, 64]),
)
@example(seed=1, dtype=torch.bfloat16, heads=(2, 3), head_dim=32, lengths=[1025, 1000, 17], window=0)
@example(seed=2, dtype=torch.float32, heads=(1, 2), head_dim=16, lengths=[1024, 1040], window=1010)
def test_rows_depend_on_their_keys_alone(
    seed: int, dtype: torch.dtype, heads: tuple[int, int], head_dim: int, lengths: list[int], window: int
) -> None:
    """Neighbours, their order, block tables, tree slots for any end of the path, garbage, windows, threads."""
    require_library()
    scene = make_scene(
        seed,
        dtype=dtype,
        kv_heads=heads[0],
        group=heads[1],
        head_dim=head_dim,
        lengths=lengths,
        rows_per_sequence=4,
        window=window,
    )
    rng = random.Random(seed)
    layouts = [random_layout(scene, rng) for _ in range(4)]
    assert differing_layouts(attention, scene, layouts) == []
    for layout in layouts[:2]:
        once = threaded(1, scene, layout)
        assert all(same_bits(threaded(n, scene, layout), once) for n in (2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [20, 32])
def test_reference_rows_depend_on_their_keys_alone(head_dim: int, dtype: torch.dtype) -> None:
    """What the fast path cannot take falls back to the reference, which promises the same."""
    for seed, window in ((0, 0), (1, 7), (2, 40)):
        scene = make_scene(
            seed,
            dtype=dtype,
            kv_heads=2,
            group=3,
            head_dim=head_dim,
            lengths=[1, 15, 33, 100],
            rows_per_sequence=3,
            window=window,
        )
        layouts = [random_layout(scene, random.Random(seed + i)) for i in range(4)]
        with form("reference"):
            assert differing_layouts(attention, scene, layouts) == []
        if head_dim == 20:
            assert differing_layouts(attention, scene, layouts) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [16, 17, 40])
def test_any_end_of_a_path_may_lie_in_tree_slots(length: int, dtype: torch.dtype) -> None:
    require_library()
    scene = make_scene(
        length, dtype=dtype, kv_heads=2, group=2, head_dim=32, lengths=[length], rows_per_sequence=1, window=18
    )
    layouts = [Layout(group=[0], tails=[tail], seed=tail) for tail in range(length + 1)]
    assert differing_layouts(attention, scene, layouts) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 19])
def test_a_prompt_in_any_chunks_gives_the_same_rows(window: int, dtype: torch.dtype) -> None:
    """A chunk's step knows no later key: the lanes after it hold garbage then, and other keys in the next step."""
    require_library()
    length = 45
    scene = make_scene(
        3, dtype=dtype, kv_heads=1, group=3, head_dim=16, lengths=[length], rows_per_sequence=1, window=window
    )
    scene = dataclasses.replace(
        scene,
        row_sequences=[0] * length,
        row_positions=list(range(length)),
        queries=normal(length, 48, seed=4, dtype=dtype),
    )
    whole = run(attention, scene, Layout(group=list(range(length)), tails=[0] * length, seed=0))
    for chunk in (1, 7, 16, 30):
        parts = [list(range(first, min(first + chunk, length))) for first in range(0, length, chunk)]
        rows = [run(attention, scene, Layout(group=part, tails=[0] * len(part), seed=chunk)) for part in parts]
        assert same_bits(torch.cat(rows), whole)


@pytest.mark.parametrize("length", [15, 16, 17, 1023, 1024, 1025, 1041])
def test_identical_keys_give_the_mean_at_every_length(length: int) -> None:
    """With equal scores every key weighs the same, and values that are whole numbers show a lost or doubled one."""
    scene = make_scene(0, dtype=torch.float32, kv_heads=1, group=1, head_dim=16, lengths=[length], rows_per_sequence=1)
    scene.keys[0].fill_(0.5)
    scene.values[0][:] = torch.arange(length, dtype=torch.float32)[:, None, None]
    found = run(attention, scene, Layout(group=[0], tails=[min(5, length)], seed=1))
    assert_close(found, torch.full((1, 16), (length - 1) / 2, dtype=torch.float64), rtol=2e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", ["query", "key", "value"])
def test_nan_stays_in_the_row_that_sees_it_and_is_seen_there(kind: str, name: str) -> None:
    """A NaN must not vanish into a plausible answer either."""
    scene = make_scene(5, dtype=torch.float32, kv_heads=1, group=2, head_dim=16, lengths=[9, 40], rows_per_sequence=2)
    layout = Layout(group=[0, 1, 2, 3], tails=[0, 2, 0, 1], seed=1)
    with form(name):
        clean = run(attention, scene, layout)
        if kind == "query":
            scene.queries[0] = float("nan")
        else:
            (scene.keys if kind == "key" else scene.values)[0][8, :, 3] = float("nan")  # seen by row 0 alone
        assert scene.row_sequences[2] == 0
        assert scene.row_positions[2] < 8
        dirty = run(attention, scene, layout)
    assert same_bits(dirty[1:], clean[1:])
    assert dirty[0].isnan().all() if kind != "value" else dirty[0].view(2, 16)[:, 3].isnan().all()


@pytest.mark.parametrize("name", FORMS)
def test_the_largest_scores_do_not_overflow(name: str) -> None:
    scene = make_scene(
        6, dtype=torch.float32, kv_heads=1, group=1, head_dim=16, lengths=[50], rows_per_sequence=1, scale=1e6
    )
    with form(name):
        found = run(attention, scene, tidy(0))
    assert_close(found, scene.exact(0)[None], rtol=1e-5)  # one key takes all


def padded_sdpa(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> torch.Tensor:
    """An ordinary batched attention over a gathered cache, padded to the longest row."""
    slots = [rows.slots_in_order(row)[-window if window else 0 :] for row in range(rows.count)]
    longest = max(len(some) for some in slots)
    gathered = [cache.read(layer, torch.cat([some, some[:1].expand(longest - len(some))])) for some in slots]
    keys, values = (torch.stack(some).transpose(1, 2) for some in zip(*gathered, strict=True))
    mask = torch.arange(longest) < torch.tensor([len(some) for some in slots])[:, None]
    query = queries.view(rows.count, -1, 1, cache.head_dim)
    group = query.shape[1] // cache.num_kv_heads
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    return F.scaled_dot_product_attention(query, keys, values, mask[:, None, None]).flatten(1)


def gathered_matmul(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> torch.Tensor:
    """Ordinary products, one row at a time, over keys in the order in which they lie in memory."""
    out = torch.empty_like(queries)
    for row in range(rows.count):
        slots = rows.slots_in_order(row)[-window if window else 0 :].sort().values
        keys, values = (x.float().transpose(0, 1) for x in cache.read(layer, slots))
        query = queries[row].float().view(cache.num_kv_heads, -1, cache.head_dim)
        weights = torch.softmax(query @ keys.transpose(1, 2) * cache.head_dim**-0.5, dim=-1)
        out[row] = (weights @ values).flatten().to(out.dtype)
    return out


@pytest.mark.parametrize(
    ("ordinary", "dtype"),
    [
        (padded_sdpa, torch.float32),
        (padded_sdpa, torch.bfloat16),
        (gathered_matmul, torch.float32),  # rounding to bfloat16 would hide nearly all of its differences
    ],
)
def test_an_ordinary_attention_is_caught(ordinary: Attention, dtype: torch.dtype) -> None:
    """The same check, over an operation that means the same (first) and whose rows do depend on their surroundings."""
    scene = make_scene(7, dtype=dtype, kv_heads=2, group=2, head_dim=64, lengths=[33, 100, 300], rows_per_sequence=3)
    rng = random.Random(7)
    layouts = [random_layout(scene, rng) for _ in range(8)]
    exact = torch.stack([scene.exact(row) for row in layouts[0].group])
    atol = 2e-3 if dtype == torch.bfloat16 else 3e-6
    assert_close(run(ordinary, scene, layouts[0]), exact, rtol=4 * ROUNDING[dtype], atol=atol)
    assert differing_layouts(ordinary, scene, layouts) != []
    assert differing_layouts(attention, scene, layouts) == []


def test_reading_in_slot_order_is_caught() -> None:
    """The smallest slip: the kernel's own arithmetic, with a tree's keys read in slot order."""
    scene = make_scene(8, dtype=torch.float32, kv_heads=1, group=1, head_dim=16, lengths=[60], rows_per_sequence=2)

    def slipped(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> torch.Tensor:
        in_order = [rows.slots_in_order(row).sort().values for row in range(rows.count)]
        sizes = torch.tensor([0] + [len(slots) for slots in in_order]).cumsum(0)
        sorted_rows = Rows.from_lists(
            positions=rows.positions.tolist(),
            write_slots=rows.write_slots.tolist(),
            num_in_table=[0] * rows.count,
            table_offsets=[0] * rows.count,
            tables=[],
            tail_offsets=sizes.tolist(),
            tail_slots=torch.cat(in_order).tolist(),
        )
        return attention(queries, sorted_rows, cache, layer, window)

    layouts = [random_layout(scene, random.Random(i)) for i in range(4)]
    assert differing_layouts(slipped, scene, layouts) != []
    assert differing_layouts(attention, scene, layouts) == []


def test_neither_cache_nor_queries_change() -> None:
    scene = make_scene(9, dtype=torch.bfloat16, kv_heads=2, group=2, head_dim=16, lengths=[20], rows_per_sequence=2)
    queries, rows, cache = lay_out(scene, Layout(group=[0, 1], tails=[3, 0], seed=1))
    before = [x.clone() for x in (queries, cache.keys, cache.values)]
    attention(queries, rows, cache, 1, 0)
    assert all(same_bits(x, y) for x, y in zip(before, (queries, cache.keys, cache.values), strict=True))
