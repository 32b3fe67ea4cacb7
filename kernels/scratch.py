"""What attention on a GPU keeps between its two kernels, and how many rows may do so at a time.

Each row leaves a sum of values, its largest score and its total for each head and each split of its keys: with a long
text in the batch that is megabytes a row. So rows are taken in stretches that keep within a bound. Which rows are
together changes no row's bits, for none looks at another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SCRATCH_BYTES", "SPLIT", "Stretch", "scratch_bytes", "stretches"]

SPLIT = 128
"""Keys of a split: a single row over 2,048 keys and 8 heads is 128 programs, about one for each multiprocessor."""
SCRATCH_BYTES = 256 * 2**20
"""Thousands of programs for each launch, of any model: a GPU has work enough."""


def scratch_bytes(num_rows: int, longest: int, num_heads: int, head_dim: int, *, split: int = SPLIT) -> int:
    """Of so many rows, if the longest text has so many keys.

    >>> scratch_bytes(1, 131_072, 32, 128)
    17039360
    """
    return num_rows * num_heads * -(-longest // split) * (head_dim + 2) * 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Tiles that follow each other, and their rows."""

    first_tile: int
    num_tiles: int
    first_row: int
    num_rows: int


def stretches(first_rows: Sequence[int], num_rows: int, most_rows: int) -> list[Stretch]:
    """All tiles, which begin at `first_rows`, in as few stretches of at most `most_rows` as keep their order; a tile
    with more than that is a stretch of its own.

    >>> [(each.first_tile, each.num_tiles, each.num_rows) for each in stretches([0, 8, 9, 12], 13, 9)]
    [(0, 2, 9), (2, 2, 4)]
    """
    ends = [*first_rows[1:], num_rows]
    found, first = list[Stretch](), 0
    for tile, end in enumerate(ends):
        if tile + 1 == len(ends) or ends[tile + 1] - first_rows[first] > most_rows:
            rows = {"first_row": first_rows[first], "num_rows": end - first_rows[first]}
            found.append(Stretch(first_tile=first, num_tiles=tile + 1 - first, **rows))
            first = tile + 1
    return found
