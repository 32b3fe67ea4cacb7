"""How requests come in: a new one is written down first, one that another router had is read back from the journal.

Whatever is on its way comes once, for all who ask for it meanwhile, and to the end, though they may have left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Protocol, TypeVar

from contracts.clock import Clock
from contracts.errors import DeadlineExceeded, InvalidArgument
from router.admission import Admission, Understood
from router.journal.journal import StoreLost
from router.journal.recorder import Acceptance, Recorder
from router.journal.records import Accepted, Recorded
from router.journal.recovery import differs, give_up, ran_s, replay
from router.request import Request
from router.request_key import RequestKey
from router.request_maker import RequestMaker

__all__ = ["Arrivals", "Begin"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_RETRY_S = 0.5


class Begin(Protocol):
    """Runs a request, or keeps one that has ended; `is_new`: somebody has just asked for it."""

    def __call__(self, request: Request, deadline_s: float | None, *, is_new: bool) -> None: ...


class Arrivals:
    """See the module. What has come is handed to `begin`."""

    def __init__(
        self, recorder: Recorder, admission: Admission, maker: RequestMaker, clock: Clock, begin: Begin
    ) -> None:
        self._recorder, self._admission, self._maker, self._clock = recorder, admission, maker, clock
        self._begin = begin
        self._coming: dict[RequestKey, asyncio.Task[Request | None]] = {}

    async def accept(self, key: RequestKey, understood: Understood) -> Request | None:
        """A new request; None where the journal knew it and has forgotten it meanwhile."""
        return await self._come(key, lambda: self._counted(key, understood))

    async def met(self, key: RequestKey) -> Request | None:
        """What is on its way already, once it is here: it was let in when it was first asked for."""
        coming = self._coming.get(key)
        return None if coming is None else await asyncio.shield(coming)

    async def recall(self, key: RequestKey) -> Request | None:
        """What the journal has of a request, if anything; one that has not ended goes on."""
        return await self._come(key, lambda: self._recall(key))

    async def recover(self, is_here: Callable[[RequestKey], bool]) -> None:
        """Goes on with what a router before this one accepted and did not end."""
        keys = await self._patiently(self._recorder.unfinished)
        for key in keys:
            if not is_here(key):
                try:
                    if await self._patiently(partial(self.recall, key)) is None:
                        await self._recorder.strike(key)
                except Exception as error:  # noqa: BLE001  # whatever is wrong with this one, the others go on
                    _log.error("request %s cannot go on: %r", key, error)
        if keys:
            _log.info("%d requests go on where another router left them", len(keys))

    # Inside

    async def _come(
        self, key: RequestKey, bring: Callable[[], Coroutine[None, None, Request | None]]
    ) -> Request | None:
        coming = self._coming.get(key)
        if coming is None:
            coming = self._coming[key] = asyncio.create_task(bring())
            coming.add_done_callback(partial(self._came, key))
        return await asyncio.shield(coming)

    def _came(self, key: RequestKey, coming: asyncio.Task[Request | None]) -> None:
        """Whoever is left to hear of an error is told. The place among its tenant's is kept by what runs alone."""
        del self._coming[key]
        failed = coming.cancelled() or coming.exception() is not None
        request = None if failed else coming.result()
        if request is None or request.has_ended:
            self._admission.quotas.end(key.tenant, key.id, 0)

    def _counted(self, key: RequestKey, understood: Understood) -> Coroutine[None, None, Request | None]:
        """It has its place from this moment on: others are looked at before the task begins."""
        self._admission.num_coming += understood.asked.num_choices
        self._admission.quotas.let_in(key.tenant, key.id, len(understood.tokens))
        return self._accept(key, understood)

    async def _accept(self, key: RequestKey, understood: Understood) -> Request | None:
        asked, offer = understood.asked, self._admission.offer
        assert offer is not None, "checked on admission"
        began_s = self._clock.now_s()
        record = Accepted(
            asked=asked, prompt=tuple(understood.tokens), model=offer.model, accepted_s=self._clock.wall_s()
        )
        try:
            async with asyncio.timeout(asked.deadline_s):
                acceptance = await self._recorder.accept(record)
        except TimeoutError:
            raise DeadlineExceeded(
                "the store stayed away until the deadline; try again, or give it more time"
            ) from None
        finally:
            self._admission.num_coming -= asked.num_choices
        if acceptance is Acceptance.KNOWN:
            return await self._recall(key)
        request = self._maker.make(understood, began_s=began_s)
        self._recorder.follow(request, record, is_written=acceptance is Acceptance.WRITTEN)
        self._begin(request, asked.deadline_s, is_new=True)
        return request

    async def _recall(self, key: RequestKey) -> Request | None:
        found = await self._recorder.find(key)
        if found is None:
            return None
        asked = found.accepted.asked
        self._admission.check_model("")
        constraint = await self._admission.constraint(asked.json_schema)
        assert self._admission.offer is not None, "checked above"
        reason = differs(found, self._admission.offer.model) or self._misfit(found)
        request = self._maker.make(
            Understood(asked=asked, tokens=list(found.accepted.prompt), constraint=constraint),
            began_s=self._clock.now_s() - ran_s(found, self._clock.wall_s()),
            committed=[] if reason else [choice.tokens for choice in found.choices],
        )
        if reason:
            give_up(request, reason)
        else:
            replay(request, found)
        self._recorder.follow_again(request, found)
        self._begin(request, asked.deadline_s, is_new=False)
        return request

    def _misfit(self, found: Recorded) -> str:
        try:
            self._admission.check_tokens(found.accepted.asked, found.accepted.prompt)
        except InvalidArgument as error:
            return f"the target takes less than the one that it began with: {error}"
        return ""

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks the store until it answers."""
        while True:
            try:
                return await ask()
            except StoreLost as error:
                _log.warning("%s; it is asked again", error)
                await self._clock.sleep(_RETRY_S)
