"""Finding stop strings in text that arrives in pieces, whatever the pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from contracts.errors import InvalidArgument


class Released(NamedTuple):
    """Text that may be shown, and the stop string that ended the sequence, if one did."""

    text: str
    stop: str | None


class StopStringMatcher:
    """Holds back text that may turn out to begin a stop string.

    The first stop string to be complete wins; of those complete at the same character, the longest. Both are facts
    of the text alone, so a sequence stops at the same place whether its tokens come one by one or many at a time.
    For each stop string the matcher keeps how much of it the text now ends with, and moves on by one character in
    amortised constant time (Knuth, Morris and Pratt).
    """

    def __init__(self, stop: Sequence[str], *, include_stop: bool = False) -> None:
        for text in stop:
            if not text:
                raise InvalidArgument(f"stop is {list(stop)}; every stop string must have at least one character")
        self._stops = sorted(dict.fromkeys(stop), key=len, reverse=True)
        self._fallbacks = [_fallbacks(text) for text in self._stops]
        self._matched = [0] * len(self._stops)
        self._include_stop = include_stop
        self._held = ""
        self._has_stopped = False

    def push(self, text: str) -> Released:
        """Text to show now. After a stop string was found there is none any more."""
        if self._has_stopped:
            return Released("", None)
        available = self._held + text
        for index, character in enumerate(text, start=len(self._held) + 1):
            stop = self._advance(character)
            if stop is not None:
                self._has_stopped, self._held = True, ""
                return Released(available[: index if self._include_stop else index - len(stop)], stop)
        num_held = max(self._matched, default=0)
        self._held = available[len(available) - num_held :]
        return Released(available[: len(available) - num_held], None)

    def finish(self) -> str:
        """The text held back, now that nothing follows that could complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        """Take one character; the stop string that it completes, if any."""
        completed = None
        for which, stop in enumerate(self._stops):
            matched = self._matched[which]
            while matched and stop[matched] != character:
                matched = self._fallbacks[which][matched]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                completed = completed or stop
                matched = 0
            self._matched[which] = matched
        return completed


def _fallbacks(stop: str) -> list[int]:
    """For each number of matched characters, how many are still matched if the next one does not fit."""
    fallbacks = [0, 0]
    for index in range(1, len(stop)):
        matched = fallbacks[index]
        while matched and stop[matched] != stop[index]:
            matched = fallbacks[matched]
        fallbacks.append(matched + (stop[matched] == stop[index]))
    return fallbacks
