"""Rows of a sequence that read their keys together, and what each sees of its tree, as bitmaps.

On a GPU a program serves several rows of a sequence, so that keys which all of them see are read once. What a row sees
of the tree is one bit for each node that any row of its tile sees: tables of a fixed width, however deep the paths, as
captured graphs need them. Nodes are numbered by their place in the text, so a row's k-th bit is its k-th ancestor.

Which rows are together is a matter of speed alone: a row's sums follow the positions of its keys, not its tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernels.pinned import to_device

__all__ = ["TILE", "Tiles", "plan_tiles", "rows_per_tile"]

TILE = 32
"""Rows times heads of a group in one tile of a matrix instruction; of two such tiles the keys are read twice."""
_WORD_BITS = 32


def rows_per_tile(group: int) -> int:
    """How many rows are together, where each has `group` heads that look at the same keys.

    >>> [rows_per_tile(group) for group in (1, 4, 7, 40)]
    [32, 8, 4, 1]
    """
    return max(TILE // group, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """All int32, on the device of the rows."""

    count: int
    num_nodes: int
    """Nodes of each tile in the tables, a power of two of whole words; most tiles have fewer."""
    longest: int
    """Keys of the row that has most."""
    first_rows: tuple[int, ...] | None
    """Of each tile, on the host; None where they change in place, as in a captured graph."""
    bounds: torch.Tensor  # [count, 3]: first row, number of rows, how many positions all rows see in one block table
    nodes: torch.Tensor  # [count, num_nodes] slots
    bitmaps: torch.Tensor  # [rows, num_nodes / 32]


def plan_tiles(
    positions: Sequence[int],  # of each row
    num_in_table: Sequence[int],
    table_offsets: Sequence[int],
    tail_offsets: Sequence[int],  # one more than rows
    tail_slots: Sequence[int],
    *,
    rows_per_tile: int,
    device: torch.device,
) -> Tiles:
    """Neighbouring rows with the same block table, at most `rows_per_tile` together.

    Two children of one parent, whose slots are 40 and 41 below node 7: both see node 7, and each itself.

    >>> here = torch.device("cpu")
    >>> tiles = plan_tiles([5, 5], [4, 4], [0, 0], [0, 2, 4], [7, 40, 7, 41], rows_per_tile=8, device=here)
    >>> tiles.nodes[0, :3].tolist(), [f"{word:03b}" for word in tiles.bitmaps[:, 0].tolist()]
    ([7, 40, 41], ['011', '101'])
    """
    bounds: list[tuple[int, int, int]] = []
    nodes: list[dict[tuple[int, int], int]] = []  # of each tile: (position, slot) -> number
    for first, last in _tile_bounds(table_offsets, rows_per_tile):
        seen = {
            (position, slot)
            for row in range(first, last)
            for position, slot in enumerate(tail_slots[tail_offsets[row] : tail_offsets[row + 1]], num_in_table[row])
        }
        bounds.append((first, last - first, min(num_in_table[first:last])))
        nodes.append({node: number for number, node in enumerate(sorted(seen))})
    most = max((len(some) for some in nodes), default=0)
    num_nodes = max(_WORD_BITS, 1 << max(most - 1, 0).bit_length())
    table = np.zeros((len(bounds), num_nodes), dtype=np.int32)
    bits = np.zeros((len(positions), num_nodes), dtype=np.uint8)
    for index, ((first, count, _), numbers) in enumerate(zip(bounds, nodes, strict=True)):
        if not numbers:
            continue
        table[index, : len(numbers)] = [slot for _, slot in numbers]
        for row in range(first, first + count):
            tail = tail_slots[tail_offsets[row] : tail_offsets[row + 1]]
            bits[row, [numbers[node] for node in enumerate(tail, num_in_table[row])]] = 1
    words = np.packbits(bits, axis=1, bitorder="little").view("<i4")
    parts = (table, words, np.array(bounds, dtype=np.int32).reshape(-1, 3))  # what has whole words begins evenly
    there = to_device(torch.from_numpy(np.concatenate([part.reshape(-1) for part in parts])), device)
    nodes_there, bitmaps, bounds_there = torch.split(there, [part.size for part in parts])
    return Tiles(
        count=len(bounds),
        num_nodes=num_nodes,
        longest=max(positions, default=-1) + 1,
        first_rows=tuple(first for first, _, _ in bounds),
        bounds=bounds_there.view(-1, 3),
        nodes=nodes_there.view(table.shape),
        bitmaps=bitmaps.view(words.shape),
    )


def _tile_bounds(table_offsets: Sequence[int], rows_per_tile: int) -> list[tuple[int, int]]:
    """First and last + 1 of each tile."""
    bounds = []
    first = 0
    for row in range(1, len(table_offsets) + 1):
        is_end = row == len(table_offsets) or table_offsets[row] != table_offsets[first]
        if is_end or row - first == rows_per_tile:
            bounds.append((first, row))
            first = row
    return bounds
