"""A suffix array over documents of tokens: where does a stretch of tokens occur?

Suffixes are sorted by their first `MAX_PATTERN` tokens only, as no longer stretch is ever looked up: prefix doubling
(Manber and Myers, 1990) then takes log2(MAX_PATTERN) sorts, whatever the text. All suffixes that begin with a stretch
lie side by side, and two binary searches find where. Tokens are kept as big-endian bytes, so that comparing bytes
compares tokens, and a comparison is one call.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BYTES_PER_TOKEN", "MAX_PATTERN", "SuffixArray"]

MAX_PATTERN = 16
BYTES_PER_TOKEN = 8
"""Four for the token and four for its place in the order."""

_WIDTH = 4
_END = 2**32 - 1  # after each document: no token, so that no stretch reaches across documents
_END_BYTES = _END.to_bytes(_WIDTH, "big")


def pack(tokens: Sequence[int]) -> bytes:
    """Tokens as bytes that compare as they do."""
    return np.asarray(tokens, dtype=">u4").tobytes()


class SuffixArray:
    """Never changes after it was made."""

    def __init__(self, documents: Sequence[Sequence[int]]) -> None:
        self.num_documents = len(documents)
        self._bytes = b"".join(pack(document) + _END_BYTES for document in documents)
        self._order = array("i", _sorted_suffixes(np.frombuffer(self._bytes, dtype=">u4").astype(np.int64)).tobytes())

    def __len__(self) -> int:
        """Number of tokens, ends of documents included."""
        return len(self._order)

    def documents(self) -> list[list[int]]:
        """What it was made of."""
        return list(self.newest_first())[::-1]

    def newest_first(self) -> Iterator[list[int]]:
        """The same from the last to the first, each made when it is its turn."""
        tokens = np.frombuffer(self._bytes, dtype=">u4")
        ends = np.flatnonzero(tokens == _END)
        starts = [0, *(ends[:-1] + 1).tolist()]
        return (tokens[start:end].tolist() for start, end in zip(starts[::-1], ends[::-1].tolist(), strict=True))

    def occurrences(self, pattern: Sequence[int]) -> range:
        """Ranks of the suffixes that begin with this stretch of at most MAX_PATTERN tokens."""
        wanted = pack(pattern)
        size, text = len(wanted), self._bytes

        def beginning(start: int) -> bytes:
            return text[start * _WIDTH : start * _WIDTH + size]

        low = bisect_left(self._order, wanted, key=beginning)
        return range(low, bisect_right(self._order, wanted, lo=low, key=beginning))

    def continuation(self, rank: int, skip: int, length: int) -> list[int]:
        """At most `length` tokens of the suffix of a rank, after its first `skip`, up to the document's end."""
        start = (self._order[rank] + skip) * _WIDTH
        found: list[int] = np.frombuffer(self._bytes[start : start + length * _WIDTH], dtype=">u4").tolist()
        return found[: found.index(_END)] if _END in found else found


def _sorted_suffixes(
    tokens: NDArray[np.int64],  # [n]
) -> NDArray[np.int32]:
    """Starts of all suffixes by their first MAX_PATTERN tokens: [n]."""
    size = len(tokens)
    rank = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    compared = 1
    while compared < MAX_PATTERN and size > 1:
        # A suffix that ends early sorts before those that go on.
        following = np.zeros(size, dtype=np.int64)
        following[:-compared] = rank[compared:] + 1
        rank = np.unique(rank * (size + 1) + following, return_inverse=True)[1].astype(np.int64)
        compared *= 2
    return np.argsort(rank, kind="stable").astype(np.int32)
