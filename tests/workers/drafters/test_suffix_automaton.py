"""The automaton against plain counting of substrings."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.drafters.rig import de_bruijn
from workers.drafters.suffix_automaton import EMPTY, SuffixAutomaton

TEXTS = st.lists(st.integers(0, 3), max_size=50)


def automaton_of(text: list[int]) -> SuffixAutomaton:
    automaton = SuffixAutomaton()
    for token in text:
        automaton.append(token)
    return automaton


def state_of(automaton: SuffixAutomaton, substring: tuple[int, ...]) -> int | None:
    state: int | None = EMPTY
    for token in substring:
        state = None if state is None else automaton.target(state, token)
    return state


@given(TEXTS)
def test_it_knows_each_substring_how_often_it_occurred_and_what_followed(text: list[int]) -> None:
    automaton = automaton_of(text)
    counts = Counter(tuple(text[i:j]) for i in range(len(text)) for j in range(i + 1, len(text) + 1))
    for substring, count in counts.items():
        state = state_of(automaton, substring)
        assert state is not None
        assert automaton.count[state] == count
        followed = {token for token in range(4) if (*substring, token) in counts}
        assert {token for token, _ in automaton.continuations(state)} == followed
    assert len(automaton) <= max(2 * len(text), 1)


@given(TEXTS, st.lists(st.integers(0, 4), max_size=12))
def test_advancing_finds_the_longest_match(text: list[int], more: list[int]) -> None:
    automaton = automaton_of(text)
    state, matched = EMPTY, 0
    known = {tuple(text[i:j]) for i in range(len(text)) for j in range(i, len(text) + 1)}
    for end in range(1, len(more) + 1):
        state, matched = automaton.advance(state, matched, more[end - 1])
        longest = max(n for n in range(end + 1) if n == 0 or tuple(more[end - n : end]) in known)
        assert matched == longest
        assert state == state_of(automaton, tuple(more[end - matched : end]))


@given(TEXTS.filter(bool))
def test_the_link_of_the_whole_text_is_its_longest_suffix_that_occurred_before(text: list[int]) -> None:
    automaton = automaton_of(text)
    before = {tuple(text[i:j]) for i in range(len(text)) for j in range(i, len(text))}
    longest = max(n for n in range(len(text)) if tuple(text[len(text) - n :]) in before)
    assert automaton.length[automaton.link[automaton.last]] == longest


def test_states_and_transitions_stay_within_their_bounds() -> None:
    for text in ([7] * 5000, de_bruijn(4, 6), [*range(2000), *range(2000)], [0, *([1, 0, 2] * 1500)]):
        automaton = automaton_of(text)
        assert len(automaton) <= 2 * len(text)
        others = sum(len(targets) for targets in automaton._others.values())
        assert others + len(automaton) <= 3 * len(text) + 2
