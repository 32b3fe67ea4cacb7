"""A store of documents that grows and stays searchable: several suffix arrays, each at least twice the next.

A suffix array cannot be added to. So a new document becomes a small one of its own, and neighbours are made into one as
long as the newer is more than half of the older (a log-structured merge). A token so takes part in as many rebuilds as
the store can double, and a search looks at that many arrays.

The oldest documents go when the store is full: at least a quarter of the oldest array at a time, so that rebuilding it
is paid for by what was added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.drafters.suffix_array import BYTES_PER_TOKEN, MAX_PATTERN, SuffixArray

__all__ = ["Place", "TextStore"]

DOCUMENT_BYTES = 16  # what ends a document, in text and order, and a little for small arrays


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stretch occurs: ranks of one array."""

    suffixes: SuffixArray
    ranks: range


class TextStore:
    """Documents of tokens, the oldest first. None is empty; one longer than fits is known by its end."""

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._arrays: list[SuffixArray] = []

    def add(self, document: Sequence[int]) -> None:
        """One more document."""
        self.add_all([document])

    def add_all(self, documents: Sequence[Sequence[int]]) -> None:
        """Many documents at once, with one sort for all that fit."""
        if not (kept := _newest(reversed(documents), self.max_bytes)):
            return
        self._arrays.append(SuffixArray(kept))
        while len(self._arrays) > 1 and len(self._arrays[-1]) * 2 > len(self._arrays[-2]):
            newer, older = self._arrays.pop(), self._arrays.pop()
            self._arrays.append(SuffixArray([*older.documents(), *newer.documents()]))
        self._count()
        while self.num_bytes > self.max_bytes:
            self._drop_oldest()
            self._count()

    def documents(self) -> list[list[int]]:
        return [document for suffixes in self._arrays for document in suffixes.documents()]

    def newest(self, max_bytes: int) -> list[Sequence[int]]:
        """Those that a store of so many bytes would hold."""
        newest_first = (document for suffixes in reversed(self._arrays) for document in suffixes.newest_first())
        return _newest(newest_first, max_bytes)

    def find(self, pattern: Sequence[int]) -> list[Place]:
        """Where a stretch of at most MAX_PATTERN tokens occurs, the newest documents first."""
        found = [Place(suffixes, suffixes.occurrences(pattern)) for suffixes in reversed(self._arrays)]
        return [place for place in found if len(place.ranks) > 0]

    def longest_match(self, ending: Sequence[int]) -> int:
        """Length of the longest suffix of `ending` that occurs, MAX_PATTERN at most.

        Where a stretch occurs all of its parts do, so the length is found by halving.
        """
        low, high = 0, min(len(ending), MAX_PATTERN)
        while low < high:
            middle = (low + high + 1) // 2
            if self.find(ending[len(ending) - middle :]):
                low = middle
            else:
                high = middle - 1
        return low

    def _drop_oldest(self) -> None:
        documents = self._arrays[0].documents()
        wanted = max(self.num_bytes - self.max_bytes, len(self._arrays[0]) * BYTES_PER_TOKEN // 4)
        num_dropped = freed = 0
        while num_dropped < len(documents) and freed < wanted:
            freed += len(documents[num_dropped]) * BYTES_PER_TOKEN + DOCUMENT_BYTES
            num_dropped += 1
        left = documents[num_dropped:]
        self._arrays[:1] = [SuffixArray(left)] if left else []

    def _count(self) -> None:
        self.num_bytes = sum(
            len(one) * BYTES_PER_TOKEN + one.num_documents * (DOCUMENT_BYTES - BYTES_PER_TOKEN) for one in self._arrays
        )


def _newest(newest_first: Iterable[Sequence[int]], max_bytes: int) -> list[Sequence[int]]:
    """The documents that fit into so many bytes, the oldest first; of a newest one that does not, the end."""
    kept, left = list[Sequence[int]](), max_bytes
    for document in newest_first:
        room = (left - DOCUMENT_BYTES) // BYTES_PER_TOKEN
        if len(document) > room:
            if not kept and room > 0:
                kept.append(document[-room:])
            break
        if document:
            kept.append(document)
            left -= len(document) * BYTES_PER_TOKEN + DOCUMENT_BYTES
    return kept[::-1]
