"""The trie of past answers: frequent branches first, several at once, and room made by fading."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.types import ROOT, DrafterId
from tests.workers.drafters.rig import ONE, VOCAB_SIZE, A, paths, proposed, sentences, teach
from workers.drafters.drafter import Opening
from workers.drafters.lookahead import NODE_BYTES, Lookahead, LookaheadMemory
from workers.drafters.trie import TrieNode, find


def new(**settings: int) -> Lookahead:
    return Lookahead(drafter=DrafterId("lookahead"), vocab_size=VOCAB_SIZE, **settings)


def memory_of(drafter: Lookahead) -> LookaheadMemory:
    return drafter._memory(A)


def counts_below(node: TrieNode, path: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {}
    for token, child in (node.children or {}).items():
        found[(*path, token)] = child.count
        found |= counts_below(child, (*path, token))
    return found


@settings(max_examples=40)
@given(prompt=st.lists(st.integers(0, 3), max_size=8), answer=st.lists(st.integers(0, 3), max_size=25))
def test_the_trie_counts_every_stretch_of_an_answer(prompt: list[int], answer: list[int]) -> None:
    drafter = new(max_match=2, max_depth=3)
    teach(drafter, A, prompt, answer)
    text = [*prompt, *answer]
    earliest = max(len(prompt) - 2, 0)
    wanted = Counter(
        tuple(text[start:end])
        for start in range(earliest, len(text))
        for end in range(start + 1, min(start + 5, len(text)) + 1)
        if answer
    )
    assert counts_below(memory_of(drafter)._root) == pytest.approx(wanted, rel=0.01)  # fading takes longer
    assert memory_of(drafter).num_bytes == len(wanted) * NODE_BYTES


def test_branches_by_frequency() -> None:
    drafter = new()
    for last, times in ((50, 5), (60, 2), (70, 1)):
        for _ in range(times):
            teach(drafter, A, [1], [2, 3, last, last + 1, last + 2])
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=[2, 3])])
    tree = proposed(drafter, ONE, 9)
    firsts = [node.token for node in tree if node.parent == ROOT]
    assert firsts == [50, 60, 70]
    assert {(50, 51, 52), (60, 61, 62)} <= set(paths(tree))


def test_an_answers_first_tokens_are_found_by_the_end_of_its_prompt() -> None:
    drafter = new()
    teach(drafter, A, [90, 91, 92, 93, 94], [10, 11, 12])
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=[7, 93, 94])])
    assert proposed(drafter, ONE, 3)[0].token == 10


def test_what_is_asked_often_outlives_what_was_asked_once() -> None:
    drafter = new(max_tenant_bytes=400 * NODE_BYTES)
    for turn in range(60):
        teach(drafter, A, [1], [2, 3, 4, 5, 6, 7])
        teach(drafter, A, [1], sentences(20, turn, first=20, num_words=150))
    assert memory_of(drafter).num_bytes <= 400 * NODE_BYTES
    node = find(memory_of(drafter)._root, [2, 3, 4, 5])
    assert node is not None
    assert node.count > 2.0 * memory_of(drafter)._unit
    assert len(counts_below(memory_of(drafter)._root)) * NODE_BYTES == memory_of(drafter).num_bytes


def test_counts_fade() -> None:
    """What was taken often long ago comes after what is taken now; and the unit never leaves the range of numbers."""
    drafter = new(max_tenant_bytes=4000 * NODE_BYTES)
    teach(drafter, A, [1], [2, 3, 50])
    memory = memory_of(drafter)
    memory.half_life = 4  # one answer: so that the unit passes its limit several times
    for token, num_answers in ((50, 300), (60, 20)):
        for _ in range(num_answers):
            teach(drafter, A, [1], [2, 3, token])
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=[2, 3])])
    for _ in range(3):
        tree = proposed(drafter, ONE, 1)
        assert tree[0].token == 60
        assert tree[0].confidence > 0.5
        for _ in range(250):
            teach(drafter, A, [1], [2, 3, 60])
        assert memory._unit < 2.0**401
