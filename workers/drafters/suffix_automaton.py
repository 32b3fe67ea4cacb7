"""The suffix automaton of a text that grows (Blumer et al., 1985): all its substrings, by one state for each set of
places where they end.

Why a token costs amortised constant time: a text of n tokens has at most 2n states and 3n transitions, and appending
one only adds some, follows suffix links that it makes shorter, or redirects transitions that it will not redirect
again. What a copied state takes over are new transitions, so copying is paid for by the 3n as well.

Substrings of one state end at the same places, so a state's count is the number of times each of them occurred. A new
token adds one to every state on the suffix path of the whole text, which can be as long as the text (all tokens equal).
So only the first `MAX_COUNTED` states of the path are counted: the longest contexts, which are the ones that are used.
Text that people write has paths of a few dozen; there the counts are exact, elsewhere they are lower bounds.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice

__all__ = ["EMPTY", "SuffixAutomaton"]

EMPTY = 0
"""The state of the empty string."""
MAX_COUNTED = 64
MAX_CONTINUATIONS = 64  # of one state that are looked at: the newest; a token may be followed by thousands

_NONE = -1


class SuffixAutomaton:
    """States are indices into columns; most have one transition, which lies in the columns too."""

    def __init__(self) -> None:
        self.length = array("i", [0])
        """Length of the longest substring of a state; the shortest is one longer than that of its link."""
        self.link = array("i", [_NONE])
        """The state of the longest suffix that also occurs at other places."""
        self.count = array("i", [0])
        self.last = EMPTY
        """The state of the whole text."""
        self._token = array("i", [_NONE])
        self._target = array("i", [_NONE])
        self._others: dict[int, dict[int, int]] = {}  # second and later transitions

    def __len__(self) -> int:
        """Number of states."""
        return len(self.length)

    def target(self, state: int, token: int) -> int | None:
        """The state of a substring followed by a token, None where that never occurred."""
        if self._token[state] == token:
            return self._target[state]
        others = self._others.get(state)
        return None if others is None else others.get(token)

    def continuations(self, state: int) -> Iterator[tuple[int, int]]:
        """What followed, as (token, state after it): the newest first, at most `MAX_CONTINUATIONS`."""
        others = self._others.get(state)
        if others is not None:
            yield from islice(reversed(others.items()), MAX_CONTINUATIONS - 1)
        if self._token[state] != _NONE:
            yield self._token[state], self._target[state]

    def advance(self, state: int, matched: int, token: int) -> tuple[int, int]:
        """From a match to the longest one that also holds the next token: (state, its length)."""
        while (after := self.target(state, token)) is None:
            if state == EMPTY:
                return EMPTY, 0
            state = self.link[state]
            matched = self.length[state]
        return after, matched + 1

    def append(self, token: int) -> None:
        """One more token."""
        length, link = self.length, self.link
        new = self._add_state(length[self.last] + 1)
        at = self.last
        while at != _NONE and self.target(at, token) is None:
            self._set_target(at, token, new)
            at = link[at]
        if at == _NONE:
            link[new] = EMPTY
        else:
            after = self.target(at, token)
            assert after is not None, "the loop above stopped at a state with this transition"
            link[new] = after if length[after] == length[at] + 1 else self._split(at, token, after)
        self.last = new
        self._count_path(new)

    def _split(self, at: int, token: int, after: int) -> int:
        """Gives the shorter substrings of a state, those that now occur at one more place, a state of their own."""
        short = self._add_state(self.length[at] + 1)
        self.link[short] = self.link[after]
        self.count[short] = self.count[after]
        self._token[short], self._target[short] = self._token[after], self._target[after]
        if after in self._others:
            self._others[short] = dict(self._others[after])
        while at != _NONE and self.target(at, token) == after:
            self._set_target(at, token, short)
            at = self.link[at]
        self.link[after] = short
        return short

    def _count_path(self, state: int) -> None:
        count, link = self.count, self.link
        for _ in range(MAX_COUNTED):
            if state == EMPTY:
                break
            count[state] += 1
            state = link[state]

    def _add_state(self, length: int) -> int:
        self.length.append(length)
        self.link.append(EMPTY)
        self.count.append(0)
        self._token.append(_NONE)
        self._target.append(_NONE)
        return len(self.length) - 1

    def _set_target(self, state: int, token: int, target: int) -> None:
        if self._token[state] in (_NONE, token):
            self._token[state], self._target[state] = token, target
        else:
            self._others.setdefault(state, {})[token] = target
