"""The table of rows: bounded after every operation, and the row updated longest ago goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from workers.drafters.row_table import RowTable


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), max_size=40), st.integers(1, 20))
def test_it_holds_the_rows_updated_last_as_far_as_they_fit(puts: list[tuple[int, int]], max_bytes: int) -> None:
    table: RowTable[tuple[int, ...]] = RowTable(max_bytes=max_bytes, bytes_of=len)
    expected: list[tuple[int, tuple[int, ...]]] = []
    for key, size in puts:
        table.put(key, (0,) * size)
        expected = [pair for pair in expected if pair[0] != key] + [(key, (0,) * size)]
        while sum(len(row) for _, row in expected) > max_bytes:
            expected.pop(0)
        assert list(table.items()) == expected
        assert table.num_bytes == sum(len(row) for _, row in expected)
        assert len(table) == len(expected)
        assert table.get(key) == dict(expected).get(key)


def test_a_table_without_room_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="max_bytes is 0"):
        RowTable(max_bytes=0, bytes_of=len)
