"""The front door: requests that come, run, are read, and end.

The gRPC servicer and the HTTP face both stand before it; neither knows of trees, rounds or workers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from contracts.clock import Clock
from contracts.errors import InvalidArgument, NotFound, SpecfleetError, shown
from contracts.types import RequestId, TenantId
from router.admission import Admission, FrontLimits
from router.answer import AnsweredToken, Reason
from router.arrivals import Arrivals
from router.asked import Asked, Speculation
from router.journal.recorder import Recorder
from router.metrics.figures import FrontFigures
from router.orders import VerifierOffer
from router.request import Choice, Request
from router.request_key import RequestKey
from router.request_maker import RequestMaker
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.security.bounds import check_request, check_request_id
from router.security.caller import NOBODY
from router.security.quotas import Quotas
from router.target_text import TargetText
from specfleet.tracing import Tracing

__all__ = ["NOBODY", "Asked", "Choice", "Front", "FrontLimits", "Request", "Speculation"]

_log = logging.getLogger(__name__)


class Front:
    """See the module. Lives in one event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        loop: SchedulingLoop,
        clock: Clock,
        limits: FrontLimits,
        recorder: Recorder,
        quotas: Quotas | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.scheduler, self.loop, self.clock = scheduler, loop, clock
        self.recorder, self.leadership = recorder, recorder.leadership
        self.quotas = quotas or Quotas(clock)
        self.admission = Admission(scheduler, limits, self.quotas)
        self.num_requests = 0
        self.figures = FrontFigures()
        self._arrivals = Arrivals(
            recorder, self.admission, RequestMaker(self.admission, scheduler, tracing), clock, begin=self._begin
        )
        self._requests: dict[RequestKey, Request] = {}
        self._recovering: asyncio.Task[None] | None = None

    # The target

    def target_joined(self, offer: VerifierOffer, text: TargetText) -> None:
        """From now on requests can be understood. A target that comes back must be the same."""
        is_first = self.offer is None
        self.admission.offer, self.admission.text = offer, text
        if is_first:
            self._recovering = asyncio.create_task(self._arrivals.recover(self._requests.__contains__))

    @property
    def offer(self) -> VerifierOffer | None:
        """The target as it introduced itself, once it has."""
        return self.admission.offer

    @property
    def text(self) -> TargetText | None:
        """Its tokenizer and chat template."""
        return self.admission.text

    @property
    def is_draining(self) -> bool:
        """Whether no new requests are taken any more."""
        return self.admission.is_draining

    @is_draining.setter
    def is_draining(self, value: bool) -> None:
        self.admission.is_draining = value

    @property
    def is_ready(self) -> bool:
        """Whether a request would begin to run now."""
        return self.leadership.leads and self.scheduler.verifier is not None and not self.is_draining

    # Requests

    async def generate(self, asked: Asked) -> Request:
        """Accepts a request, or refuses it at once with the reason. The same id again is the same request, of one
        tenant: another's ids are of no matter here.
        """
        try:
            return await self._accepted(asked)
        except SpecfleetError as error:
            self.figures.refused[type(error).__name__] += 1
            raise

    async def _accepted(self, asked: Asked) -> Request:
        check_request(
            request_id=asked.request_id,
            json_schema=asked.json_schema,
            drafters=asked.speculation.drafters,
            priority=asked.priority,
        )
        self.leadership.check()
        key = RequestKey(asked.tenant, RequestId(asked.request_id or secrets.token_hex(12)))
        known = self._requests.get(key) or await self._arrivals.met(key)
        if known is None:
            understood = await self.admission.understand(replace(asked, request_id=key.id))
            while known is None:
                known = self._requests.get(key) or await self._arrivals.accept(key, understood)
        return known

    async def read(self, request: Request, choice: int, first: int = 0) -> AsyncIterator[list[AnsweredToken]]:
        """The tokens of one choice from one on. While nobody reads, time runs towards giving it up."""
        if not 0 <= choice < len(request.choices):
            raise InvalidArgument(f"choice is {choice}; this request has {len(request.choices)}, counted from 0")
        self._keep(request)
        try:
            # Closed before anyone is counted: left to the event loop, a reader who is gone would still be one.
            async with aclosing(request.choices[choice].answer.read(first)) as said:
                async for tokens in said:
                    await self.leadership.speak()
                    yield tokens
            await self.leadership.speak()
        finally:
            self._let_go(request)

    async def find(self, request_id: str, tenant: TenantId) -> Request:
        """A request of this tenant that runs, or ended not too long ago, under this router or another. Only this
        tenant's are looked for, so that another's id is as unknown as one that never was.
        """
        self.leadership.check()
        check_request_id(request_id)
        key = RequestKey(tenant, RequestId(request_id))
        found = self._requests.get(key) or await self._arrivals.recall(key)
        if found is None:
            raise NotFound(f"there is no request {shown(request_id)}, or it ended too long ago to be kept")
        return found

    def cancel(self, request: Request, reason: Reason = Reason.CANCELLED) -> bool:
        """Ends what still runs of a request; whether anything did."""
        was_running = not request.has_ended
        for choice in request.choices:
            if choice.answer.ended is None:
                self.scheduler.cancel(choice.sequence.id)
                choice.answer.end(reason)
                self._ended(request, choice)
        self.loop.poke()
        return was_running

    def close(self) -> None:
        """Begins nothing more by itself."""
        if self._recovering is not None:
            self._recovering.cancel()

    def fall_silent(self, error: SpecfleetError) -> None:
        """Another one leads: nothing more is said or computed here."""
        for request in self._requests.values():
            for choice in request.choices:
                self.scheduler.cancel(choice.sequence.id)
                choice.answer.break_off(error)
        self.loop.poke()

    async def count_tokens(self, prompt: str | Sequence[Mapping[str, str]], model: str = "") -> int:
        """How many tokens a prompt has."""
        self.admission.check_model(model)
        return len(await self.admission.encode(prompt))

    def requests(self) -> list[Request]:
        """All that run or are kept."""
        return list(self._requests.values())

    # Beginning and ending

    def _begin(self, request: Request, deadline_s: float | None, *, is_new: bool) -> None:
        """Runs what has not ended."""
        self._requests[request.key] = request
        self.num_requests += 1
        for choice in request.choices:
            self._watch(request, choice)
        if request.has_ended:
            asyncio.get_running_loop().call_later(self.admission.limits.keep_s, self._forget, request)
            return
        self.quotas.begin(request.tenant, request.id, request.num_prompt_tokens)
        for choice in request.choices:
            if choice.answer.ended is None:
                self.scheduler.submit(choice.sequence)
        if deadline_s is not None:
            left_s = max(request.began_s + deadline_s - self.clock.now_s(), 0.0)
            request.deadline = asyncio.get_running_loop().call_later(left_s, self.cancel, request, Reason.DEADLINE)
        self.loop.poke()
        if is_new:
            num_prompt, about = request.num_prompt_tokens, {"request": request.id}
            _log.info("request %s is accepted: %d tokens, mode %s", request.id, num_prompt, request.mode, extra=about)
            self._let_go(request)

    def _watch(self, request: Request, choice: Choice) -> None:
        choice.answer.on_change = lambda: self._changed(request, choice)

    def _changed(self, request: Request, choice: Choice) -> None:
        if not (choice.first_token_s or choice.is_replayed) and choice.answer.tokens:
            choice.first_token_s = self.clock.now_s()
            self.figures.began_to_answer(request, choice)
            if choice.span is not None:
                choice.span.event("first token")
        self.recorder.touched(request)
        if choice.answer.ended is not None:
            self._ended(request, choice)

    def _ended(self, request: Request, choice: Choice) -> None:
        if not choice.ended_s:
            choice.ended_s = self.clock.now_s()
            self.figures.ended(request, choice)
            self._tell_of_end(request, choice)
        if request.has_ended:
            num_tokens = sum(len(each.answer.tokens) for each in request.choices)
            self.quotas.end(request.tenant, request.id, num_tokens)
            if request.deadline is not None:
                request.deadline.cancel()
            asyncio.get_running_loop().call_later(self.admission.limits.keep_s, self._forget, request)

    def _tell_of_end(self, request: Request, choice: Choice) -> None:
        num_tokens, ended = len(choice.answer.tokens), choice.answer.ended
        reason = ended.reason.value if ended is not None else ""
        took_s = choice.ended_s - request.began_s
        about = {"request": request.id, "sequence": choice.sequence.id}
        _log.info("request %s has ended: %s, %d tokens in %.2f s", request.id, reason, num_tokens, took_s, extra=about)
        if choice.span is not None:
            choice.span.end({"specfleet.tokens": num_tokens, "specfleet.reason": reason})

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.key, None)
        self.recorder.forget(request)

    def _keep(self, request: Request) -> None:
        if request.abandoned is not None:
            request.abandoned.cancel()
            request.abandoned = None

    def _let_go(self, request: Request) -> None:
        """Nobody may be reading any more: after a time of grace it is given up."""
        if not request.has_ended and all(choice.answer.num_readers == 0 for choice in request.choices):
            self._keep(request)
            running = asyncio.get_running_loop()
            request.abandoned = running.call_later(self.admission.limits.grace_s, self.cancel, request)
