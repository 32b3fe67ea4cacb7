"""Retrieval: suffix arrays against plain search, the store's bounds, and trees of what followed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId
from tests.workers.drafters.rig import ONE, VOCAB_SIZE, A, B, chain, paths, proposed, sentences
from workers.drafters import text_store
from workers.drafters.drafter import Opening
from workers.drafters.retrieval import Retrieval
from workers.drafters.suffix_array import MAX_PATTERN, SuffixArray
from workers.drafters.text_store import TextStore

DOCUMENTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=6)
PATTERN = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def count(documents: list[list[int]], pattern: list[int]) -> int:
    size = len(pattern)
    return sum(d[i : i + size] == pattern for d in documents for i in range(len(d) - size + 1))


@given(documents=DOCUMENTS, pattern=PATTERN)
def test_a_suffix_array_finds_each_occurrence_and_what_followed(documents: list[list[int]], pattern: list[int]) -> None:
    suffixes = SuffixArray(documents)
    assert suffixes.documents() == documents
    ranks = suffixes.occurrences(pattern)
    assert len(ranks) == count(documents, pattern)
    size = len(pattern)
    followed = [d[i + size : i + size + 3] for d in documents for i in range(len(d)) if d[i : i + size] == pattern]
    assert sorted(suffixes.continuation(rank, size, 3) for rank in ranks) == sorted(followed)


def test_patterns_of_the_full_length_are_told_apart_by_their_last_token() -> None:
    stem = [1] * (MAX_PATTERN - 1)
    suffixes = SuffixArray([[*stem, token, 9] for token in (2, 3, 4)] + [[2**31 - 1, 256, 255]])
    for token in (2, 3, 4):
        assert [suffixes.continuation(rank, MAX_PATTERN, 2) for rank in suffixes.occurrences([*stem, token])] == [[9]]
    assert len(suffixes.occurrences([*stem, 5])) == 0
    assert len(suffixes.occurrences([256, 255])) == 1


@settings(max_examples=60)
@given(documents=DOCUMENTS, ending=st.lists(st.integers(0, 4), max_size=10))
def test_a_store_that_grew_is_one_that_was_made_at_once(documents: list[list[int]], ending: list[int]) -> None:
    grown, made = TextStore(max_bytes=2**16), TextStore(max_bytes=2**16)
    for document in documents:
        grown.add(document)
    made.add_all(documents)
    assert grown.documents() == made.documents() == documents
    assert grown.num_bytes == made.num_bytes
    longest = max(n for n in range(len(ending) + 1) if n == 0 or count(documents, ending[len(ending) - n :]))
    assert grown.longest_match(ending) == made.longest_match(ending) == longest
    assert sum(len(place.ranks) for place in grown.find([1, 2])) == count(documents, [1, 2])
    sizes = [len(suffixes) for suffixes in grown._arrays]
    assert all(newer * 2 <= older for older, newer in pairwise(sizes))


@settings(max_examples=60)
@given(documents=DOCUMENTS, max_bytes=st.integers(30, 400))
def test_a_full_store_holds_the_newest(documents: list[list[int]], max_bytes: int) -> None:
    store = TextStore(max_bytes=max_bytes)
    for document in documents:
        store.add(document)
        assert store.num_bytes <= max_bytes
    held = store.documents()
    for kept, added in zip(held[::-1], documents[::-1], strict=False):
        assert kept == added[len(added) - len(kept) :]


@settings(max_examples=60)
@given(documents=DOCUMENTS, max_bytes=st.integers(30, 400))
def test_the_newest_of_a_store_are_as_many_as_fit(documents: list[list[int]], max_bytes: int) -> None:
    store = TextStore(max_bytes=2**16)
    store.add_all(documents)
    newest, smaller = store.newest(max_bytes), TextStore(max_bytes=max_bytes)
    smaller.add_all(documents)
    assert smaller.documents() == newest
    assert smaller.num_bytes <= max_bytes
    if len(newest) > 1 or newest[0] == documents[-1]:
        assert newest == documents[-len(newest) :]
    else:
        assert newest[0] == documents[-1][-len(newest[0]) :]


def test_what_is_known_is_merged_without_another_sort() -> None:
    drafter, sorts = drafter_with([sentences(50, seed) for seed in range(20)], [1]), list[int]()
    memory = drafter._memory(A)

    class Counted(SuffixArray):
        def __init__(self, documents: Sequence[Sequence[int]]) -> None:
            super().__init__(documents)
            sorts.append(len(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_store, "SuffixArray", Counted)
        memory.merge({"documents": memory.store.documents()[:5]})
        assert sorts == []
        memory.merge({"documents": [[1, 2, 3]]})
        assert sorts == [4]
    assert memory.store.documents()[-1] == [1, 2, 3]


def drafter_with(documents: list[list[int]], text: list[int]) -> Retrieval:
    drafter = Retrieval(drafter=DrafterId("retrieval"), vocab_size=VOCAB_SIZE)
    drafter.remember(A, documents)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=text)])
    return drafter


def test_the_longest_suffix_decides_and_frequency_among_equals() -> None:
    documents = [[3, 50, 51]] * 4 + [[2, 3, 60, 61], [2, 3, 60, 62], [2, 3, 70, 71], [1, 2, 3, 80, 81]]
    tree = proposed(drafter_with(documents, [9, 2, 3]), ONE, 30)
    assert tree[0].token == 60
    assert {(60, 61), (60, 62), (70,), (80,), (50,)} <= set(paths(tree))
    assert chain(proposed(drafter_with(documents, [1, 2, 3]), ONE, 30)) == (80, 81)


def test_a_suffix_that_occurs_everywhere_keeps_the_shares_of_what_followed() -> None:
    documents = [[5, 50]] * 900 + [[5, 60]] * 300
    found = {n.token: n.confidence for n in proposed(drafter_with(documents, [5]), ONE, 9) if n.parent == ROOT}
    assert found[50] / found[60] == pytest.approx(3.0, rel=0.15)


@pytest.mark.timeout(20)  # or it would look at them all
def test_however_often_a_suffix_occurs_few_places_are_looked_at() -> None:
    class Everywhere(SuffixArray):
        def occurrences(self, pattern: Sequence[int]) -> range:
            return range(10**12)

        def continuation(self, rank: int, skip: int, length: int) -> list[int]:
            return [rank % 7]

    drafter = drafter_with([[5, 50]], [5])
    drafter._memory(A).store._arrays = [Everywhere([[5, 50]])]
    assert len(proposed(drafter, ONE, 9)) == 7


def test_public_documents_are_read_for_all_and_never_written() -> None:
    public = [sentences(200, 4)]
    drafter = Retrieval(drafter=DrafterId("r"), vocab_size=VOCAB_SIZE, public=public)
    for tenant in (A, B):
        drafter.open([Opening(sequence=ONE, tenant=tenant, tokens=public[0][:20])])
        assert chain(proposed(drafter, ONE, 5))[:2] == tuple(public[0][20:22])
        drafter.close([ONE])
        assert drafter.num_bytes(tenant) == 0
    with pytest.raises(InvalidArgument, match="do not fit"):
        Retrieval(
            drafter=DrafterId("r"), vocab_size=VOCAB_SIZE, public=public * 9, max_bytes=4096, max_tenant_bytes=4096
        )
