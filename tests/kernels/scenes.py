"""Attention scenes: what rows see, apart from where it lies.

A `Scene` is the meaning (queries, keys and values by logical position). `Layout` is everything that must not matter:
which blocks hold a sequence, how much of a row's path lies in tree slots, which rows share a step and in what order,
and what garbage fills the rest of the cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from tests.kernels.rig import normal, same_bits

Attention = Callable[[torch.Tensor, Rows, KVCache, int, int], torch.Tensor]
"""(queries, rows, cache, layer, window) -> [rows, heads * head_dim]"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Some sequences' keys and values, and rows that look at them."""

    dtype: torch.dtype
    kv_heads: int
    head_dim: int
    window: int
    keys: list[torch.Tensor]  # of each sequence: [length, kv_heads, head_dim]
    values: list[torch.Tensor]  # the same
    row_sequences: list[int]
    row_positions: list[int]
    queries: torch.Tensor  # [rows, heads * head_dim]

    @property
    def num_rows(self) -> int:
        return len(self.row_positions)

    def exact(self, row: int) -> torch.Tensor:
        """The attention of a row in float64: [heads * head_dim]."""
        end = self.row_positions[row] + 1
        start = max(0, end - self.window) if self.window else 0
        keys, values = (x[self.row_sequences[row]][start:end].double() for x in (self.keys, self.values))
        query = self.queries[row].double().view(self.kv_heads, -1, self.head_dim)
        weights = torch.softmax(torch.einsum("kgd,nkd->kgn", query, keys) * self.head_dim**-0.5, dim=-1)
        return torch.einsum("kgn,nkd->kgd", weights, values).flatten()


def make_scene(
    seed: int,
    *,
    dtype: torch.dtype,
    kv_heads: int,
    group: int,
    head_dim: int,
    lengths: list[int],
    rows_per_sequence: int,
    window: int = 0,
    scale: float = 1.0,
) -> Scene:
    """Rows at the end of each sequence and at random places before it."""
    rng = random.Random(seed)
    keys = [normal(n, kv_heads, head_dim, seed=seed + i, dtype=dtype) for i, n in enumerate(lengths)]
    values = [normal(n, kv_heads, head_dim, seed=seed + 100 + i, dtype=dtype) for i, n in enumerate(lengths)]
    rows = [(i, n - 1) for i, n in enumerate(lengths)]
    rows += [(i, rng.randrange(n)) for i, n in enumerate(lengths) for _ in range(rows_per_sequence - 1)]
    queries = (normal(len(rows), kv_heads * group * head_dim, seed=seed + 200) * scale).to(dtype)
    return Scene(
        dtype=dtype,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=window,
        keys=keys,
        values=values,
        row_sequences=[sequence for sequence, _ in rows],
        row_positions=[position for _, position in rows],
        queries=queries,
    )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One of the many ways to lay a scene out."""

    group: list[int]  # the scene's rows in this step, in this order
    tails: list[int]  # for each, how many of its last positions lie in tree slots
    seed: int | None  # of the order of blocks and the garbage between; None: in order, and zeros


def tidy(row: int) -> Layout:
    """The row alone, everything in order."""
    return Layout(group=[row], tails=[0], seed=None)


def random_layout(scene: Scene, rng: random.Random, *, max_rows: int = 12) -> Layout:
    group = [rng.randrange(scene.num_rows) for _ in range(rng.randint(1, max_rows))]
    tails = [rng.choice([0, 0, 1, rng.randint(0, min(40, scene.row_positions[row] + 1))]) for row in group]
    return Layout(group=group, tails=tails, seed=rng.randrange(2**30))


def lay_out(scene: Scene, layout: Layout) -> tuple[torch.Tensor, Rows, KVCache]:
    """Queries, rows and a cache (one layer of two; the other is garbage) of this layout."""
    rng = random.Random(layout.seed)
    used = sorted({scene.row_sequences[row] for row in layout.group})
    sizes = {i: -(-scene.keys[i].shape[0] // BLOCK_TOKENS) for i in used}
    num_tail_blocks = -(-sum(layout.tails) // BLOCK_TOKENS)
    num_needed = sum(sizes.values()) + num_tail_blocks
    blocks = list(range(num_needed + 3))
    if layout.seed is not None:
        rng.shuffle(blocks)
    cache = empty_cache(scene, len(blocks), garbage=layout.seed is not None)
    tables = {i: [blocks.pop(0) for _ in range(sizes[i])] for i in used}
    free = [block * BLOCK_TOKENS + lane for block in blocks for lane in range(BLOCK_TOKENS)]
    if layout.seed is not None:
        rng.shuffle(free)
    # Only what some row sees through its table is there; the lanes after it hold garbage.
    for i in used:
        seen = [
            scene.row_positions[row] + 1 - tail
            for row, tail in zip(layout.group, layout.tails, strict=True)
            if scene.row_sequences[row] == i
        ]
        positions = torch.arange(max(seen))
        slots = torch.tensor(tables[i])[positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS
        cache.write(1, slots, scene.keys[i][: max(seen)], scene.values[i][: max(seen)])
    tail_slots: list[list[int]] = []
    for row, tail in zip(layout.group, layout.tails, strict=True):
        slots_of_row, free = free[:tail], free[tail:]
        first, last = scene.row_positions[row] + 1 - tail, scene.row_positions[row] + 1
        sequence = scene.row_sequences[row]
        keys, values = scene.keys[sequence][first:last], scene.values[sequence][first:last]
        cache.write(1, torch.tensor(slots_of_row, dtype=torch.int64), keys, values)
        tail_slots.append(slots_of_row)
    return scene.queries[layout.group], _rows(scene, layout, tables, tail_slots), cache


def empty_cache(scene: Scene, num_blocks: int, *, garbage: bool) -> KVCache:
    cache = KVCache(
        num_layers=2, num_blocks=num_blocks, num_kv_heads=scene.kv_heads, head_dim=scene.head_dim, dtype=scene.dtype
    )
    for held in (cache.keys, cache.values):
        held.fill_(float("nan") if garbage else 0.0)
        if garbage:
            held.view(-1)[::3] = float("inf")
            held.view(-1)[1::3] = 1e30
    return cache


def _rows(scene: Scene, layout: Layout, tables: dict[int, list[int]], tail_slots: list[list[int]]) -> Rows:
    flat_tables: list[int] = []
    offset_of: dict[int, int] = {}
    for sequence, table in tables.items():
        offset_of[sequence] = len(flat_tables)
        flat_tables += table
    offsets = [0]
    for slots in tail_slots:
        offsets.append(offsets[-1] + len(slots))
    positions = [scene.row_positions[row] for row in layout.group]
    return Rows.from_lists(
        positions=positions,
        write_slots=[0] * len(positions),
        num_in_table=[p + 1 - tail for p, tail in zip(positions, layout.tails, strict=True)],
        table_offsets=[offset_of[scene.row_sequences[row]] for row in layout.group],
        tables=flat_tables,
        tail_offsets=offsets,
        tail_slots=[slot for slots in tail_slots for slot in slots],
    )


def run(attention: Attention, scene: Scene, layout: Layout) -> torch.Tensor:
    queries, rows, cache = lay_out(scene, layout)
    return attention(queries, rows, cache, 1, scene.window)


def differing_layouts(attention: Attention, scene: Scene, layouts: list[Layout]) -> list[str]:
    """In which layouts a row has other bits than alone with everything in order; nothing to say if in none."""
    alone = {row: run(attention, scene, tidy(row))[0] for layout in layouts for row in layout.group}
    complaints = []
    for layout in layouts:
        together = run(attention, scene, layout)
        differing = [place for place, row in enumerate(layout.group) if not same_bits(together[place], alone[row])]
        if differing:
            complaints.append(f"rows at places {differing} of {layout}")
    return complaints
