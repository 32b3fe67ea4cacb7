"""What one sequence has said so far, as text, and everyone who reads it.

Tokens are kept until the request is forgotten, and a reader is a place in them. So a slow reader holds nobody up, and a
client that lost its stream goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from contracts.errors import SpecfleetError
from contracts.sampling import StopParams
from contracts.types import DrafterId, TokenLogprob
from engine.text.detokenize import IncrementalDetokenizer
from engine.text.stop_strings import StopStringMatcher
from engine.text.tokenizer import Tokenizer

__all__ = ["Answer", "AnsweredToken", "Ended", "Reason"]


class Reason(Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class AnsweredToken:
    """One token: what it adds to the text, and who guessed it (None: the target's own)."""

    token: int
    text: str
    drafter: DrafterId | None
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end: why, the text that was held back until then, and what was found or went wrong."""

    reason: Reason
    text: str = ""
    stop: str = ""
    error: str = ""


class Answer:
    """See the module. An `Output` for the scheduler."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: StopParams, *, end_tokens: frozenset[int]
    ) -> None:
        self.tokens: list[AnsweredToken] = []
        self.ended: Ended | None = None
        self._stop = stop
        self._end_tokens = frozenset(stop.stop_token_ids) | (frozenset() if stop.ignore_eos else end_tokens)
        self._detokenizer = IncrementalDetokenizer(tokenizer, prompt)
        self._matcher = StopStringMatcher(stop.stop)
        self._broken: SpecfleetError | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Is called after every change."""
        self._readers: set[asyncio.Event] = set()

    @property
    def num_readers(self) -> int:
        """Who reads it now."""
        return len(self._readers)

    def take(
        self, tokens: Sequence[int], guessed_by: Sequence[DrafterId | None], logprobs: Sequence[TokenLogprob]
    ) -> bool:
        for index, (token, drafter) in enumerate(zip(tokens, guessed_by, strict=True)):
            self._add(token, drafter, logprobs[index] if logprobs else None)
            if self.ended is not None:
                break
        self._wake()
        return self.ended is not None

    def fail(self, code: str, reason: str) -> None:
        self.end(Reason.ERROR, error=f"{code}: {reason}")

    def end(self, reason: Reason, *, error: str = "") -> None:
        """Ends it from outside; what has ended stays as it is."""
        if self.ended is None:
            self.ended = Ended(reason=reason, text=self._held(), error=error)
            self._wake()

    def break_off(self, error: SpecfleetError) -> None:
        """Says nothing more: whoever reads is told why."""
        self._broken = error
        for reader in self._readers:
            reader.set()

    async def read(self, first: int = 0) -> AsyncGenerator[list[AnsweredToken], None]:
        """The tokens from one on, as many at a time as there are; ends when the sequence has."""
        news = asyncio.Event()
        self._readers.add(news)
        try:
            while True:
                if self._broken is not None:
                    raise self._broken
                if first < len(self.tokens):
                    found = self.tokens[first:]
                    first += len(found)
                    yield found
                elif self.ended is not None:
                    return
                else:
                    news.clear()
                    await news.wait()
        finally:
            self._readers.discard(news)

    def _add(self, token: int, drafter: DrafterId | None, logprob: TokenLogprob | None) -> None:
        is_end = token in self._end_tokens
        released = self._matcher.push("" if is_end else self._detokenizer.push(token))
        self.tokens.append(AnsweredToken(token, released.text, drafter, logprob))
        if released.stop is not None:
            self.ended = Ended(reason=Reason.STOP, stop=released.stop)
        elif is_end:
            self.ended = Ended(reason=Reason.STOP, text=self._held())
        elif len(self.tokens) == self._stop.max_tokens:
            self.ended = Ended(reason=Reason.LENGTH, text=self._held())

    def _held(self) -> str:
        released = self._matcher.push(self._detokenizer.finish())
        return released.text + self._matcher.finish()

    def _wake(self) -> None:
        self.on_change()
        for reader in self._readers:
            reader.set()
