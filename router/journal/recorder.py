"""Writes down what becomes of requests, behind the back of those who work.

There is no buffer: an answer keeps its tokens, and the recorder a place in them, up to which they are written. Whoever
decides tokens only says which request has news. While the store is away nothing piles up but what is kept anyway, and
when it is back, everything is written from its place on; a store that came back with less is written from the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from contracts.clock import Clock
from contracts.config import StoreConfig
from contracts.errors import SpecfleetError
from contracts.types import RequestId, TokenLogprob
from router.answer import AnsweredToken
from router.answer import Ended as End
from router.journal.encoding import decoded, encoded
from router.journal.journal import Entry, Journal, LeaseLost, StoreLost
from router.journal.leadership import Leadership
from router.journal.records import Accepted, Committed, Ended, Recorded, recorded
from router.request import Choice, Request
from router.request_key import RequestKey

__all__ = ["Acceptance", "Recorder"]

_log = logging.getLogger(__name__)
_PAUSE_S = (
    0.1  # in which news gather: one write for many rounds. What a router loses with them is decided again, the same
)
_MOST_ENTRIES = 64  # of one write: a store serves nobody else meanwhile
_MOST_UNWRITTEN = 10_000  # requests that have ended and are forgotten, while the store is away
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 1.0


class Acceptance(Enum):
    """What became of a new request in the journal."""

    WRITTEN = "written"
    LATER = "later"
    """It will be, as the settings allow."""
    KNOWN = "known"
    """It was there already."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Followed:
    request: Request
    accepted: bytes
    num_records: int
    num_tokens: list[int]
    """Of each choice, that are written."""
    has_end: list[bool]
    """Of each choice, whether that is written."""
    news_s: float = 0.0
    """Since when it has something that is not written."""


class Recorder:
    """See the module. `run` is the one who writes."""

    def __init__(self, journal: Journal, leadership: Leadership, config: StoreConfig, clock: Clock) -> None:
        self.leadership = leadership
        self._journal, self._config, self._clock = journal, config, clock
        self._followed: dict[RequestKey, _Followed] = {}
        self._news: dict[RequestKey, _Followed] = {}  # in the order in which they came
        self._refused: dict[RequestKey, bytes] = {}  # what a store that did not answer may have got nevertheless
        self._striking = asyncio.Lock()
        self._has_news = asyncio.Event()
        self._is_back = asyncio.Event()
        self._is_back.set()
        self.num_lost = 0
        """Requests whose end could not be written down before it was too much to keep."""
        self.num_errors = 0
        """Times that the store did not answer."""

    @property
    def _is_off(self) -> bool:
        return self._config.journal == "off" or self._config.url == "memory"

    @property
    def is_store_lost(self) -> bool:
        """Whether the store was away when last asked."""
        return not self._is_back.is_set()

    @property
    def lag_s(self) -> float:
        """How old the oldest news is that is not written; 0 where all is."""
        oldest = min((followed.news_s for followed in self._news.values()), default=None)
        return 0.0 if oldest is None else self._clock.now_s() - oldest

    # Requests

    async def accept(self, accepted: Accepted) -> Acceptance:
        """Writes down a new request, as certainly as the settings say; StoreLost where it is then refused."""
        if self._is_off or self._config.journal == "buffered":
            return Acceptance.LATER
        asked, record = accepted.asked, encoded(accepted)
        key = RequestKey(asked.tenant, RequestId(asked.request_id))
        while True:
            try:
                if self.is_store_lost:
                    raise StoreLost(
                        "the store is away and new requests are refused until it is back", retry_after_s=1.0
                    )
                is_new = await self._accept(key, record)
                return Acceptance.WRITTEN if is_new else Acceptance.KNOWN
            except LeaseLost:
                self.leadership.doubt()
                await self.leadership.speak()
            except StoreLost as error:
                self._lose(error)
                if self._config.on_loss == "continue":
                    return Acceptance.LATER
                if self._config.on_loss == "refuse":
                    raise
                await self._is_back.wait()

    async def find(self, key: RequestKey) -> Recorded | None:
        """What the journal has of a request."""
        if self._is_off:
            return None
        content = await self._journal.read(key)
        return recorded(key, map(decoded, content)) if content else None

    async def unfinished(self) -> list[RequestKey]:
        """Requests that some router began and none has ended."""
        return [] if self._is_off else await self._journal.unfinished()

    async def strike(self, key: RequestKey) -> None:
        """Of this one nothing is left but that it had not ended."""
        _log.error("the store has lost request %s; it cannot go on", key)
        await self._strike([key])

    def follow(self, request: Request, accepted: Accepted, *, is_written: bool) -> None:
        """From now on its news are written down."""
        if not self._is_off:
            num_choices = len(request.choices)
            self._followed[request.key] = _Followed(
                request=request,
                accepted=encoded(accepted),
                num_records=int(is_written),
                num_tokens=[0] * num_choices,
                has_end=[False] * num_choices,
            )
            self.touched(request)

    def follow_again(self, request: Request, found: Recorded) -> None:
        """The same for one that the journal knows: what it has of it is written."""
        self._followed[request.key] = _Followed(
            request=request,
            accepted=encoded(found.accepted),
            num_records=found.num_records,
            num_tokens=[len(choice.tokens) for choice in found.choices],
            has_end=[choice.ended is not None for choice in found.choices],
        )
        self.touched(request)

    def touched(self, request: Request) -> None:
        """It has news. Called between two rounds: it must cost nothing."""
        if (followed := self._followed.get(request.key)) is not None:
            if request.key not in self._news:
                followed.news_s = self._clock.now_s()
            self._news[request.key] = followed
            self._has_news.set()

    def forget(self, request: Request) -> None:
        """Nobody keeps it any more; what is not written yet still will be, as far as there is room."""
        self._followed.pop(request.key, None)
        if request.key in self._news and len(self._news) > len(self._followed) + _MOST_UNWRITTEN:
            del self._news[request.key]
            self.num_lost += 1

    # Writing

    async def run(self) -> None:
        """Writes for as long as the lease is ours."""
        while not self.leadership.lost.is_set():
            await self._has_news.wait()
            await self._clock.sleep(_PAUSE_S)
            try:
                await self.flush()
            except LeaseLost:
                continue

    async def flush(self) -> None:
        """Writes all the news that there are; returns when they are written, however long the store is away."""
        retry_s = _FIRST_RETRY_S
        while self._news or self._refused:
            try:
                if self._refused:  # first: with on_loss continue one may run, and is written then
                    await self._strike_refused()
                await self._write(list(self._news.values())[:_MOST_ENTRIES])
                await self._look()
                retry_s = _FIRST_RETRY_S
            except LeaseLost:
                self.leadership.doubt()
                await self.leadership.speak()
            except StoreLost as error:
                self._lose(error)
                await self._clock.sleep(retry_s)
                retry_s = min(2.0 * retry_s, _LAST_RETRY_S)
        self._has_news.clear()

    async def watch(self) -> None:
        """Finds out, for ever, when a store that was lost is back, though there be nothing to write."""
        while True:
            await self._clock.sleep(_LAST_RETRY_S)
            if self.is_store_lost:
                try:
                    await self._look()
                except LeaseLost:
                    self.leadership.doubt()
                except StoreLost:
                    continue

    async def _accept(self, key: RequestKey, record: bytes) -> bool:
        """Whether it is new. Where there is no answer it is refused, and yet the store may have it: nobody would ever
        come for it, and the next router would run it.
        """
        if key in self._refused:
            await self._strike_refused()
        try:
            return await self._journal.accept(self.leadership.owner, key, record)
        except (StoreLost, asyncio.CancelledError):
            self._refused[key] = record
            self._has_news.set()
            raise

    async def _strike_refused(self) -> None:
        """Those of which the store has just what was refused; what else there may be of an id was promised."""
        async with self._striking:
            refused = dict(self._refused)
            await self._strike([key for key, record in refused.items() if await self._journal.read(key) == [record]])
            for key in refused:
                self._refused.pop(key, None)

    async def _strike(self, keys: Sequence[RequestKey]) -> None:
        entries = [Entry(request=key, num_before=0, records=(), has_ended=True) for key in keys]
        await self._journal.append(self.leadership.owner, entries)

    async def _write(self, some: list[_Followed]) -> None:
        entries = [_entry(followed) for followed in some]
        places = [_place(followed, entry) for followed, entry in zip(some, entries, strict=True)]
        for followed in some:
            del self._news[followed.request.key]
        try:
            wrong = set(await self._journal.append(self.leadership.owner, entries))
        except SpecfleetError:
            self._news = {followed.request.key: followed for followed in some} | self._news
            raise
        for followed, entry, place in zip(some, entries, places, strict=True):
            if entry.request in wrong:
                _log.warning("the store has lost some of request %s; it is written again", entry.request)
                place = 0, [0] * len(followed.num_tokens), [False] * len(followed.has_end)
                self._news[entry.request] = followed
            followed.num_records, followed.num_tokens, followed.has_end = place

    def _lose(self, error: StoreLost) -> None:
        self.num_errors += 1
        if self._is_back.is_set():
            _log.warning("%s; what runs goes on", error)
            self._is_back.clear()

    async def _look(self) -> None:
        """Whether a store that was lost is back. One whose disk is full answers, and takes nothing."""
        if self.is_store_lost:
            await self._journal.probe(self.leadership.owner)
            _log.warning("the store is back")
            self._is_back.set()


def _entry(followed: _Followed) -> Entry:
    """All that is not written yet."""
    request = followed.request
    records = [] if followed.num_records else [followed.accepted]
    for index, choice in enumerate(request.choices):
        first = followed.num_tokens[index]
        if first < len(choice.answer.tokens):
            records.append(encoded(_committed(choice, index, first)))
        if choice.answer.ended is not None and not followed.has_end[index]:
            records.append(encoded(_ended(request, choice, index, choice.answer.ended)))
    return Entry(
        request=request.key,
        num_before=followed.num_records,
        records=tuple(records),
        has_ended=request.has_ended,
    )


def _place(followed: _Followed, entry: Entry) -> tuple[int, list[int], list[bool]]:
    """Where it will be when that is written."""
    choices = followed.request.choices
    return (
        followed.num_records + len(entry.records),
        [len(choice.answer.tokens) for choice in choices],
        [choice.answer.ended is not None for choice in choices],
    )


def _committed(choice: Choice, index: int, first: int) -> Committed:
    tokens = choice.answer.tokens[first:]
    return Committed(
        choice=index,
        first_index=first,
        tokens=tuple(token.token for token in tokens),
        guessed_by=tuple(token.drafter for token in tokens),
        logprobs=_logprobs(tokens, choice.sequence.sampling.num_logprobs),
    )


def _logprobs(tokens: Sequence[AnsweredToken], num_logprobs: int) -> tuple[TokenLogprob, ...]:
    """As many as were asked for; drafters may have wanted more."""
    found = [token.logprob for token in tokens if token.logprob is not None and num_logprobs]
    return tuple(replace(logprob, top=logprob.top[:num_logprobs]) for logprob in found)


def _ended(request: Request, choice: Choice, index: int, ended: End) -> Ended:
    return Ended(
        choice=index,
        reason=ended.reason,
        error=ended.error,
        num_cached=choice.sequence.num_cached or 0,
        figures=choice.sequence.figures,
        first_token_s=max(choice.first_token_s - request.began_s, 0.0) if choice.first_token_s else 0.0,
        elapsed_s=max(choice.ended_s - request.began_s, 0.0),
    )
