"""The front door: from what a client asks to sequences that run, and back to what it reads.

The gRPC servicer and the HTTP face both stand before it; neither knows of trees, rounds or workers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, cast

from contracts.clock import Clock
from contracts.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    SpecfleetError,
    Unavailable,
    shown,
)
from contracts.sampling import MAX_SEED, check_integer
from contracts.types import DrafterId, RequestId, SequenceId, TenantId
from router.answer import Answer, AnsweredToken, Reason
from router.asked import Asked, Speculation
from router.journal.journal import StoreLost
from router.journal.recorder import Acceptance, Recorder
from router.journal.records import Accepted, Recorded
from router.journal.recovery import differs, give_up, ran_s, replay
from router.json_answer import JsonAnswer
from router.modes import mode_parts
from router.orders import VerifierOffer
from router.request import Choice, Request
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.security.bounds import check_model, check_prompt, check_request, check_request_id
from router.security.caller import NOBODY
from router.security.quotas import Quotas
from router.sequence import RoutedSequence
from router.target_text import TargetText

__all__ = ["NOBODY", "Asked", "Choice", "Front", "FrontLimits", "Request", "Speculation"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_CHOICES = 16
_RETRY_S = 0.5
_THREAD_FROM = 4_000  # characters from which a prompt is encoded in a thread, not between two rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontLimits:
    """How much may be asked at once, and how long an answer is kept for those who come back for it."""

    mode: str = "fleet"
    max_draft: int = 8
    max_waiting: int = 256
    keep_s: float = 60.0
    grace_s: float = 30.0


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
    ) -> None:
        self.scheduler, self.loop, self.clock, self.limits = scheduler, loop, clock, limits
        self.recorder, self.leadership = recorder, recorder.leadership
        self.quotas = quotas or Quotas(clock)
        self.text: TargetText | None = None
        self.offer: VerifierOffer | None = None
        self.is_draining = False
        self.num_requests = 0
        self._requests: dict[RequestId, Request] = {}
        self._coming: dict[RequestId, asyncio.Task[Request | None]] = {}  # on their way through the journal
        self._recovering: asyncio.Task[None] | None = None
        self._num_accepting = 0  # sequences of requests that wait for the journal
        self._next_sequence = 1

    # The target

    def target_joined(self, offer: VerifierOffer, text: TargetText) -> None:
        """From now on requests can be understood. A target that comes back must be the same."""
        is_first = self.offer is None
        self.offer, self.text = offer, text
        if is_first:
            self._recovering = asyncio.create_task(self._recover())

    @property
    def is_ready(self) -> bool:
        """Whether a request would begin to run now."""
        return self.leadership.leads and self.scheduler.verifier is not None and not self.is_draining

    # Requests

    async def generate(self, asked: Asked) -> Request:
        """Accepts a request, or refuses it at once with the reason. The same id again is the same request."""
        check_request(
            request_id=asked.request_id,
            json_schema=asked.json_schema,
            drafters=asked.speculation.drafters,
            priority=asked.priority,
        )
        self.leadership.check()
        name = RequestId(asked.request_id or secrets.token_hex(12))
        if (known := self._requests.get(name)) is None:
            asked, tokens, constraint = await self._understood(replace(asked, request_id=name))
            self.quotas.let_in(asked.tenant, name, len(tokens))
            try:
                while known is None:
                    known = self._requests.get(name) or await self._come(
                        name, lambda: self._accept(asked, tokens, constraint)
                    )
            finally:
                if known is None or known.tenant != asked.tenant or known.has_ended:
                    self.quotas.end(asked.tenant, name, 0)
        if known.tenant != asked.tenant:
            raise AlreadyExists(f"request_id {shown(asked.request_id)} is taken; choose another")
        return known

    async def read(self, request: Request, choice: int, first: int = 0) -> AsyncIterator[list[AnsweredToken]]:
        """The tokens of one choice from one on. While nobody reads, time runs towards giving it up."""
        if not 0 <= choice < len(request.choices):
            raise InvalidArgument(f"choice is {choice}; this request has {len(request.choices)}, counted from 0")
        self._keep(request)
        try:
            async for tokens in request.choices[choice].answer.read(first):
                await self.leadership.speak()
                yield tokens
            await self.leadership.speak()
        finally:
            self._let_go(request)

    async def find(self, request_id: str, tenant: TenantId) -> Request:
        """A request of this tenant that runs, or ended not too long ago, under this router or another."""
        self.leadership.check()
        check_request_id(request_id)
        name = RequestId(request_id)
        found = self._requests.get(name) or await self._come(name, lambda: self._recall(name))
        if found is None or found.tenant != tenant:
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
        self._check_model(model)
        return len(await self._encode(prompt))

    def requests(self) -> list[Request]:
        """All that run or are kept."""
        return list(self._requests.values())

    # Inside

    def _admit(self, asked: Asked) -> None:
        if self.is_draining:
            raise Unavailable("the fleet is being drained and takes no new requests; ask another", retry_after_s=5.0)
        self._check_model(asked.model)
        if not 1 <= asked.num_choices <= _MAX_CHOICES:
            raise InvalidArgument(f"num_choices is {asked.num_choices}; it is from 1 to {_MAX_CHOICES}")
        if asked.seed is not None:
            check_integer("seed", asked.seed, 0, MAX_SEED)
        num_waiting = len(self.scheduler.waiting) + self._num_accepting
        if num_waiting + asked.num_choices > self.limits.max_waiting:
            raise Overloaded(
                f"{num_waiting} sequences wait already and at most {self.limits.max_waiting} may; try again later",
                retry_after_s=1.0,
            )
        self.quotas.check(
            asked.tenant,
            priority=asked.priority,
            waiting=[sequence.tenant for sequence in self.scheduler.waiting],
            num_choices=asked.num_choices,
            max_waiting=self.limits.max_waiting,
        )

    def _check_model(self, model: str) -> None:
        check_model(model)
        if self.offer is None:
            raise Unavailable("the target is not there yet; it is being loaded", retry_after_s=2.0)
        if model not in ("", self.offer.model.name):
            raise NotFound(f"model is {shown(model)}; this fleet serves {self.offer.model.name}")

    async def _encode(self, prompt: str | Sequence[int] | Sequence[Mapping[str, str]]) -> list[int]:
        text, offer = self.text, self.offer
        assert text is not None, "checked on admission"
        assert offer is not None, "checked on admission"
        check_prompt(prompt, max_context=offer.max_context)
        if isinstance(prompt, str):
            if len(prompt) >= _THREAD_FROM:
                return await asyncio.to_thread(text.encode, prompt, most=offer.max_context)
            return text.encode(prompt)
        if not prompt:
            raise InvalidArgument("the prompt is empty; it has at least one token or message")
        if isinstance(prompt[0], int):
            return list(cast(Sequence[int], prompt))
        messages = cast(Sequence[Mapping[str, str]], prompt)
        return await asyncio.to_thread(text.encode_chat, messages, most=offer.max_context)

    async def _constraint(self, json_schema: str) -> JsonAnswer | None:
        if not json_schema or self.text is None:
            return None
        return await asyncio.to_thread(self.text.grammars.answer, json_schema)

    async def _understood(self, asked: Asked) -> tuple[Asked, list[int], JsonAnswer | None]:
        """Checked, and with nothing left open: its tokens, and what they have to fit."""
        self._admit(asked)
        tokens = await self._encode(asked.prompt)
        if asked.fills_context and self.offer is not None:
            room = max(self.offer.max_context - len(tokens), 1)
            asked = replace(asked, stop=replace(asked.stop, max_tokens=min(asked.stop.max_tokens, room)))
        constraint = await self._constraint(asked.json_schema)
        self._admit(asked)  # others may have come meanwhile
        self._check(asked, tokens)
        self._check_drafters(asked)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        speculation = replace(asked.speculation, mode=asked.speculation.mode or self.limits.mode)
        sampling = replace(asked.sampling, seed=seed)
        return replace(asked, seed=seed, sampling=sampling, speculation=speculation), tokens, constraint

    # Through the journal

    async def _come(
        self, name: RequestId, bring: Callable[[], Coroutine[None, None, Request | None]]
    ) -> Request | None:
        """Once for all who ask for it meanwhile, and to the end, though they may have left."""
        coming = self._coming.get(name)
        if coming is None:
            coming = self._coming[name] = asyncio.create_task(bring())
            coming.add_done_callback(partial(self._came, name))
        return await asyncio.shield(coming)

    def _came(self, name: RequestId, coming: asyncio.Task[Request | None]) -> None:
        del self._coming[name]
        if not coming.cancelled():
            coming.exception()  # whoever is left to hear of it is told

    async def _accept(self, asked: Asked, tokens: list[int], constraint: JsonAnswer | None) -> Request | None:
        """Writes it down and begins; None where the journal knew it and has forgotten it meanwhile."""
        assert self.offer is not None, "checked on admission"
        began_s = self.clock.now_s()
        record = Accepted(asked=asked, prompt=tuple(tokens), model=self.offer.model, accepted_s=self.clock.wall_s())
        self._num_accepting += asked.num_choices
        try:
            async with asyncio.timeout(asked.deadline_s):
                acceptance = await self.recorder.accept(record)
        except TimeoutError:
            raise DeadlineExceeded(
                "the store stayed away until the deadline; try again, or give it more time"
            ) from None
        finally:
            self._num_accepting -= asked.num_choices
        if acceptance is Acceptance.KNOWN:
            return await self._recall(RequestId(asked.request_id))
        request = self._request(asked, tokens, constraint, began_s=began_s)
        self.recorder.follow(request, record, is_written=acceptance is Acceptance.WRITTEN)
        self._start(request, asked.deadline_s)
        self._let_go(request)
        return request

    async def _recall(self, name: RequestId) -> Request | None:
        """What the journal has of a request; one that has not ended goes on."""
        found = await self.recorder.find(name)
        if found is None:
            return None
        asked = found.accepted.asked
        self._check_model("")
        constraint = await self._constraint(asked.json_schema)
        assert self.offer is not None, "checked above"
        reason = differs(found, self.offer.model) or self._misfit(found)
        request = self._request(
            asked,
            list(found.accepted.prompt),
            constraint,
            began_s=self.clock.now_s() - ran_s(found, self.clock.wall_s()),
            committed=[] if reason else [choice.tokens for choice in found.choices],
        )
        if reason:
            give_up(request, reason)
        else:
            replay(request, found)
        self.recorder.follow_again(request, found)
        self._start(request, asked.deadline_s)
        return request

    async def _recover(self) -> None:
        """Goes on with what a router before this one accepted and did not end."""
        names = await self._patiently(self.recorder.unfinished)
        for name in names:
            if name not in self._requests:
                try:
                    if await self._patiently(partial(self._come, name, partial(self._recall, name))) is None:
                        await self.recorder.strike(name)
                except SpecfleetError as error:
                    _log.error("request %s cannot go on: %s", name, error)
        if names:
            _log.info("%d requests go on where another router left them", len(names))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks the store until it answers."""
        while True:
            try:
                return await ask()
            except StoreLost as error:
                _log.warning("%s; it is asked again", error)
                await self.clock.sleep(_RETRY_S)

    def _misfit(self, found: Recorded) -> str:
        try:
            self._check(found.accepted.asked, found.accepted.prompt)
        except InvalidArgument as error:
            return f"the target takes less than the one that it began with: {error}"
        return ""

    # Making and ending

    def _request(
        self,
        asked: Asked,
        tokens: list[int],
        constraint: JsonAnswer | None,
        *,
        began_s: float,
        committed: Sequence[Sequence[int]] = (),
    ) -> Request:
        """With what was committed of each choice under another router."""
        assert asked.seed is not None, "drawn on admission"
        return Request(
            id=RequestId(asked.request_id),
            tenant=asked.tenant,
            mode=asked.speculation.mode or self.limits.mode,
            model=self.offer.model.name if self.offer is not None else "",
            seed=asked.seed,
            num_prompt_tokens=len(tokens),
            choices=[
                self._choice(
                    asked, tokens, committed[index] if committed else (), (asked.seed + index) & MAX_SEED, constraint
                )
                for index in range(asked.num_choices)
            ],
            began_s=began_s,
        )

    def _start(self, request: Request, deadline_s: float | None) -> None:
        """Runs what has not ended."""
        self._requests[request.id] = request
        self.num_requests += 1
        for choice in request.choices:
            self._watch(request, choice)
        if request.has_ended:
            asyncio.get_running_loop().call_later(self.limits.keep_s, self._forget, request)
            return
        self.quotas.begin(request.tenant, request.id, request.num_prompt_tokens)
        for choice in request.choices:
            if choice.answer.ended is None:
                self.scheduler.submit(choice.sequence)
        if deadline_s is not None:
            left_s = max(request.began_s + deadline_s - self.clock.now_s(), 0.0)
            request.deadline = asyncio.get_running_loop().call_later(left_s, self.cancel, request, Reason.DEADLINE)
        self.loop.poke()

    def _check(self, asked: Asked, tokens: Sequence[int]) -> None:
        offer = self.offer
        assert offer is not None, "checked on admission"
        if not tokens:
            raise InvalidArgument("the prompt is empty; it has at least one token")
        for token in tokens:
            if not 0 <= token < offer.num_real_tokens:
                raise InvalidArgument(
                    f"the prompt holds token {shown(token)}; ids are 0 to {offer.num_real_tokens - 1}"
                )
        for name, ids in (("logit_bias", asked.sampling.logit_bias), ("stop_token_ids", asked.stop.stop_token_ids)):
            for token in ids:
                if token >= offer.num_real_tokens:
                    raise InvalidArgument(f"{name} names token {token}; ids are 0 to {offer.num_real_tokens - 1}")
        if len(tokens) >= offer.max_context:
            raise InvalidArgument(
                f"the prompt has {len(tokens)} tokens; it may have {offer.max_context - 1}, so shorten the prompt"
            )
        if len(tokens) + asked.stop.max_tokens > offer.max_context:
            raise InvalidArgument(
                f"the prompt has {len(tokens)} tokens and max_tokens is {asked.stop.max_tokens}; together they may be "
                f"{offer.max_context}, so shorten the prompt or ask for at most {offer.max_context - len(tokens)}"
            )

    def _check_drafters(self, asked: Asked) -> None:
        known = {member.drafter for member in self.scheduler.roster.members}
        for drafter in asked.speculation.drafters:
            if drafter not in known:
                raise NotFound(f"drafter {shown(drafter)} is not in the fleet; there are {', '.join(sorted(known))}")
        if asked.speculation.max_draft is not None and not 1 <= asked.speculation.max_draft <= 64:
            raise InvalidArgument(f"max_draft is {asked.speculation.max_draft}; it is from 1 to 64")

    def _choice(
        self, asked: Asked, prompt: list[int], committed: Sequence[int], seed: int, constraint: JsonAnswer | None
    ) -> Choice:
        text, offer = self.text, self.offer
        assert text is not None, "checked on admission"
        assert offer is not None, "checked on admission"
        allowed = frozenset(map(DrafterId, asked.speculation.drafters)) or None
        sampling = replace(asked.sampling, seed=seed)
        answer = Answer(text.tokenizer, prompt, asked.stop, end_tokens=offer.eos_token_ids)
        tokens = [*prompt, *committed]
        sequence = RoutedSequence(
            id=SequenceId(str(self._next_sequence)),
            tenant=asked.tenant,
            tokens=tokens,
            num_prompt=len(prompt),
            max_tokens=asked.stop.max_tokens,
            sampling=sampling,
            parts=mode_parts(asked.speculation.mode or self.limits.mode),
            max_draft=asked.speculation.max_draft or self.limits.max_draft,
            drafting=self.scheduler.roster.open(
                asked.tenant, tokens, temperature=sampling.temperature, num_prompt=len(prompt), allowed=allowed
            ),
            output=answer,
            constraint=constraint.copy() if constraint is not None else None,
            allowed_drafters=allowed,
            priority=asked.priority,
        )
        self._next_sequence += 1
        return Choice(sequence=sequence, answer=answer)

    def _watch(self, request: Request, choice: Choice) -> None:
        choice.answer.on_change = lambda: self._changed(request, choice)

    def _changed(self, request: Request, choice: Choice) -> None:
        if not choice.first_token_s and choice.answer.tokens:
            choice.first_token_s = self.clock.now_s()
        self.recorder.touched(request)
        if choice.answer.ended is not None:
            self._ended(request, choice)

    def _ended(self, request: Request, choice: Choice) -> None:
        choice.ended_s = choice.ended_s or self.clock.now_s()
        if request.has_ended:
            num_tokens = sum(len(each.answer.tokens) for each in request.choices)
            self.quotas.end(request.tenant, request.id, num_tokens)
            if request.deadline is not None:
                request.deadline.cancel()
            asyncio.get_running_loop().call_later(self.limits.keep_s, self._forget, request)

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.id, None)
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
            request.abandoned = running.call_later(self.limits.grace_s, self.cancel, request)
