"""A table of small immutable rows, bounded in bytes: the row updated longest ago goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from contracts.errors import InvalidArgument

__all__ = ["RowTable"]

Row = TypeVar("Row")


class RowTable(Generic[Row]):
    """Rows by an integer key. Every operation takes constant time, whatever the size.

    Rows are immutable, so that the size of one is the same when it leaves as when it came. A dict keeps the order in
    which keys were put last; eviction needs no other structure.
    """

    def __init__(self, *, max_bytes: int, bytes_of: Callable[[Row], int]) -> None:
        if max_bytes < 1:
            raise InvalidArgument(f"a table's max_bytes is {max_bytes}; it is 1 or more")
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._bytes_of = bytes_of
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: int) -> Row | None:
        return self._rows.get(key)

    def put(self, key: int, row: Row) -> None:
        """Sets a row and makes it the last to go."""
        rows, bytes_of = self._rows, self._bytes_of
        old = rows.pop(key, None)
        if old is not None:
            self.num_bytes -= bytes_of(old)
        rows[key] = row
        self.num_bytes += bytes_of(row)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= bytes_of(rows.pop(next(iter(rows))))

    def items(self) -> Iterator[tuple[int, Row]]:
        """All rows, the one updated longest ago first."""
        return iter(self._rows.items())
