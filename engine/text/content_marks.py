"""Keeping what users write apart from what the template writes, through whatever the template does to it.

A control token such as `<|im_end|>` must count only where the template wrote it. So before rendering, the characters
in the messages with which a control token could begin are replaced by marks: characters that occur nowhere else. A
mark is as long as what it stands for and is neither a space nor a letter, so trimming, splitting and measuring work
as before. After rendering, marks turn back into the original characters; where one begins what now reads as a control
token, it does so as text that is not trusted.

Why this suffices: a control token that is not wholly the template's has its first character either from a message,
where it was a mark and the token does not match, or from the template, as the end of something it writes right before
a content; and no template ends its own text with the beginning of a control token. Nothing here depends on where in
the output contents end up, or whether the template joined, cut or trimmed them.

One exception keeps templates working that look for a string such as `</think>` in contents: strings that the template
names stay as they are, if no control token can begin within them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from contracts.errors import InvalidArgument
from engine.text.guarded_encoder import Segment

# Both supplementary private-use planes: no character of any script, and no space, digit or case.
_PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class ContentMarks:
    """The marks for one rendering. `kept` are strings that stay as they are, out of `harmless_literals`; `taken` are
    all characters that occur in its inputs."""

    def __init__(self, control_tokens: Sequence[str], kept: frozenset[str], taken: set[str]) -> None:
        tokens = [token for token in control_tokens if token]
        unused = _unused_characters(taken)
        self._mark_of = {first: next(unused) for first in sorted({token[0] for token in tokens})}
        self._marks = str.maketrans(self._mark_of)
        self._originals = str.maketrans({mark: first for first, mark in self._mark_of.items()})
        self._kept = kept
        longest_first = sorted(kept, key=len, reverse=True)
        self._to_mark = re.compile(_any_of(re.escape(text) for text in [*longest_first, *self._mark_of]))
        self._spelled_out = re.compile(_any_of(map(self._spelling, tokens)))

    def mark(self, value: Any) -> Any:
        """A copy of JSON-like data with all its strings marked, dictionary keys included."""
        if isinstance(value, str):
            return self._to_mark.sub(self._marked, value) if self._kept else value.translate(self._marks)
        if isinstance(value, Mapping):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item) for item in value]
        return value

    def segments(self, text: str) -> list[Segment]:
        """The rendered text with its original characters back, cut where a message spells out a control token.

        One character that is not trusted keeps the whole token from being recognised, so the rest may join what
        follows: the fewer the cuts, the less there is to encode.
        """
        segments = []
        start = 0
        for match in self._spelled_out.finditer(text):
            segments.append(Segment(text=text[start : match.start()].translate(self._originals), trusted=True))
            segments.append(Segment(text=match[0].translate(self._originals), trusted=False))
            start = match.end()
        segments.append(Segment(text=text[start:].translate(self._originals), trusted=True))
        return [segment for segment in segments if segment.text]

    def _marked(self, match: re.Match[str]) -> str:
        found = match[0]
        return found if found in self._kept else self._mark_of[found]

    def _spelling(self, token: str) -> str:
        """Matches the mark that begins the token, where the rest follows, be it marked or the template's."""
        rest = (
            f"[{re.escape(char)}{self._mark_of[char]}]" if char in self._mark_of else re.escape(char)
            for char in token[1:]
        )
        return f"{self._mark_of[token[0]]}(?={''.join(rest)})"


def _any_of(patterns: Iterable[str]) -> str:
    # A pattern of no alternatives would match everywhere; this one, nowhere.
    return "|".join(patterns) or r"(?!)"


def characters_of(value: Any) -> set[str]:
    """All characters in the strings of JSON-like data."""
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        return characters_of([*value.keys(), *value.values()])
    if isinstance(value, list | tuple):
        return set().union(*map(characters_of, value))
    return set()


def harmless_literals(literals: Iterable[str], control_tokens: Sequence[str]) -> frozenset[str]:
    """Those of the strings that would be marked, and in which no control token can begin if they are not."""
    tokens = [token for token in control_tokens if token]
    firsts = {token[0] for token in tokens}
    return frozenset(text for text in literals if not firsts.isdisjoint(text) and not _begins_any(text, tokens))


def _begins_any(literal: str, control_tokens: Sequence[str]) -> bool:
    """Whether the string holds a control token, or ends with the beginning of one."""
    return any(
        token in literal or any(literal.endswith(token[:size]) for size in range(1, len(token)))
        for token in control_tokens
    )


def _unused_characters(taken: set[str]) -> Iterator[str]:
    for plane in _PRIVATE_USE:
        for code in plane:
            if chr(code) not in taken:
                yield chr(code)
    raise InvalidArgument("the messages use all of Unicode's private-use characters; remove some")
