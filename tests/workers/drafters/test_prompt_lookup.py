"""Prompt lookup: the longest match, what followed it, how often."""

from __future__ import annotations

from contracts.types import DrafterId
from tests.workers.drafters.rig import ONE, VOCAB_SIZE, A, accepted_lengths, chain, paths, proposed, say
from workers.drafters.drafter import Opening
from workers.drafters.prompt_lookup import PromptLookup


def drafter_on(tokens: list[int], **settings: int) -> PromptLookup:
    drafter = PromptLookup(drafter=DrafterId("lookup"), vocab_size=VOCAB_SIZE, **settings)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=tokens)])
    return drafter


def test_the_longest_match_decides() -> None:
    # 9 was followed by 50 three times, but 8 9 by 60, and 7 8 9 by 70.
    drafter = drafter_on([1, 9, 50, 2, 9, 50, 3, 9, 50, 4, 8, 9, 60, 7, 8, 9, 70, 71, 72, 7, 8, 9])
    tree = proposed(drafter, ONE, 60)
    assert tree[0].token == 70
    assert chain(tree)[:3] == (70, 71, 72)
    assert {(60,), (50,)} <= set(paths(tree))


def test_below_a_proposal_the_match_is_still_the_longest() -> None:
    # 2 3 was mostly followed by 5, but 1 2 3 by 4.
    tree = proposed(drafter_on([1, 2, 3, 4, 8, 2, 3, 5, 9, 2, 3, 5, 8, 2, 3, 5, 7, 1, 2]), ONE, 10)
    assert chain(tree)[:2] == (3, 4)


def test_of_continuations_the_most_frequent_comes_first() -> None:
    drafter = drafter_on([5, 6, 1, 5, 6, 2, 5, 6, 1, 5, 6, 3, 5, 6, 1, 9, 5, 6])
    firsts = {node.token: node.confidence for node in proposed(drafter, ONE, 20) if node.parent == -1}
    assert max(firsts, key=firsts.__getitem__) == 1
    assert firsts[1] > 2 * firsts[2]
    assert firsts[2] > 0.0
    assert firsts[3] > 0.0


def test_a_long_match_is_trusted_more_than_a_short_one() -> None:
    long = proposed(drafter_on([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5]), ONE, 1)
    short = proposed(drafter_on([9, 5, 6, 1, 2, 5]), ONE, 1)
    assert long[0].token == short[0].token == 6
    assert long[0].confidence > 0.8
    assert short[0].confidence <= 0.5


def test_matches_shorter_than_wanted_propose_nothing() -> None:
    text = [1, 2, 3, 4, 9, 2, 3]
    assert proposed(drafter_on(text, min_match=2), ONE, 5)[0].token == 4
    assert proposed(drafter_on(text, min_match=3), ONE, 5) == ()


def test_copying_a_long_passage_fills_the_budget() -> None:
    passage = list(range(100, 180))
    lengths = accepted_lengths(drafter_on([1]), [*passage, 3, 4], passage, 12)
    assert len(lengths) <= 9  # 80 tokens; 13 a round once the first two are said


def test_a_long_text_is_known_by_its_end() -> None:
    drafter = drafter_on([1, 2, 3, *range(50, 80)], max_tokens=16)
    automaton = drafter._automata[ONE]
    assert automaton.length[automaton.last] <= 16
    say(drafter, ONE, 33, [77, 78])
    assert proposed(drafter, ONE, 1)[0].token == 79  # near
    say(drafter, ONE, 35, [1, 2])
    assert all(node.token != 3 for node in proposed(drafter, ONE, 10))  # too long ago


def test_the_automaton_after_a_cut_is_that_of_the_same_text_in_one_piece() -> None:
    tokens = [index * index % 7 for index in range(90)]
    whole, pieces = drafter_on(tokens, max_tokens=20), drafter_on([], max_tokens=20)
    for index, token in enumerate(tokens):
        say(pieces, ONE, index, [token])
    assert proposed(whole, ONE, 30) == proposed(pieces, ONE, 30)
