"""The front door: from what a client asks to sequences that run, and back to what it reads.

The gRPC servicer and the HTTP face both stand before it; neither knows of trees, rounds or workers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from contracts.clock import Clock
from contracts.errors import AlreadyExists, InvalidArgument, NotFound, Overloaded, Unavailable, shown
from contracts.sampling import MAX_SEED, check_integer
from contracts.types import DrafterId, RequestId, SamplingParams, SequenceId, StopParams, TenantId
from router.answer import Answer, AnsweredToken, Reason
from router.json_answer import JsonAnswer
from router.modes import mode_parts
from router.orders import VerifierOffer
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.sequence import RoutedSequence
from router.target_text import TargetText

__all__ = ["NOBODY", "Asked", "Choice", "Front", "FrontLimits", "Request", "Speculation"]

NOBODY = TenantId("")
"""The tenant of those who show no key, where none is asked for."""

_MAX_CHOICES = 16
_THREAD_FROM = 20_000  # characters from which a prompt is encoded in a thread, not between two rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontLimits:
    """How much may be asked at once, and how long an answer is kept for those who come back for it."""

    mode: str = "fleet"
    max_draft: int = 8
    max_waiting: int = 256
    keep_s: float = 60.0
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """A request's own wishes; what is None or empty is the fleet's."""

    mode: str | None = None
    max_draft: int | None = None
    drafters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. The prompt is a text, token ids, or chat messages. `seed` None: one is drawn. `fills_context`: the
    answer may be as long as the context has room, if that is less than `stop.max_tokens`."""

    prompt: str | Sequence[int] | Sequence[Mapping[str, str]]
    sampling: SamplingParams
    stop: StopParams
    seed: int | None = None
    request_id: str = ""
    model: str = ""
    num_choices: int = 1
    speculation: Speculation = field(default_factory=Speculation)
    priority: int = 0
    deadline_s: float | None = None
    tenant: TenantId = NOBODY
    json_schema: str = ""
    fills_context: bool = False


@dataclass(slots=True, kw_only=True)
class Choice:
    """One of the answers to a request."""

    sequence: RoutedSequence
    answer: Answer
    first_token_s: float = 0.0
    ended_s: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """A request that runs, or has ended and is kept for a while."""

    id: RequestId
    tenant: TenantId
    mode: str
    model: str
    seed: int
    num_prompt_tokens: int
    choices: list[Choice]
    began_s: float
    deadline: asyncio.TimerHandle | None = None
    abandoned: asyncio.TimerHandle | None = None

    @property
    def has_ended(self) -> bool:
        return all(choice.answer.ended is not None for choice in self.choices)


class Front:
    """See the module. Lives in one event loop."""

    def __init__(self, scheduler: Scheduler, loop: SchedulingLoop, clock: Clock, limits: FrontLimits) -> None:
        self.scheduler, self.loop, self.clock, self.limits = scheduler, loop, clock, limits
        self.text: TargetText | None = None
        self.offer: VerifierOffer | None = None
        self.is_draining = False
        self.num_requests = 0
        self._requests: dict[RequestId, Request] = {}
        self._next_sequence = 1

    # The target

    def target_joined(self, offer: VerifierOffer, text: TargetText) -> None:
        """From now on requests can be understood. A target that comes back must be the same."""
        self.offer, self.text = offer, text

    @property
    def is_ready(self) -> bool:
        """Whether a request would begin to run now."""
        return self.scheduler.verifier is not None and not self.is_draining

    # Requests

    async def generate(self, asked: Asked) -> Request:
        """Accepts a request, or refuses it at once with the reason. The same id again is the same request."""
        known = self._requests.get(RequestId(asked.request_id)) if asked.request_id else None
        if known is not None:
            if known.tenant != asked.tenant:
                raise AlreadyExists(f"request_id {shown(asked.request_id)} is taken; choose another")
            return known
        self._admit(asked)
        tokens = await self._encode(asked.prompt)
        self._admit(asked)  # others may have come meanwhile
        if asked.fills_context and self.offer is not None:
            room = max(self.offer.max_context - len(tokens), 1)
            asked = replace(asked, stop=replace(asked.stop, max_tokens=min(asked.stop.max_tokens, room)))
        constraint = await self._constraint(asked.json_schema)
        return self._begin(asked, tokens, constraint)

    async def read(self, request: Request, choice: int, first: int = 0) -> AsyncIterator[list[AnsweredToken]]:
        """The tokens of one choice from one on. While nobody reads, time runs towards giving it up."""
        if not 0 <= choice < len(request.choices):
            raise InvalidArgument(f"choice is {choice}; this request has {len(request.choices)}, counted from 0")
        self._keep(request)
        try:
            async for tokens in request.choices[choice].answer.read(first):
                yield tokens
        finally:
            self._let_go(request)

    def find(self, request_id: str, tenant: TenantId) -> Request:
        """A request of this tenant that runs or ended a moment ago."""
        found = self._requests.get(RequestId(request_id))
        if found is None or found.tenant != tenant:
            raise NotFound(f"there is no request {shown(request_id)}, or it ended over {self.limits.keep_s:.0f} s ago")
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
        num_waiting = len(self.scheduler.waiting)
        if num_waiting + asked.num_choices > self.limits.max_waiting:
            raise Overloaded(
                f"{num_waiting} sequences wait already and at most {self.limits.max_waiting} may; try again later",
                retry_after_s=1.0,
            )

    def _check_model(self, model: str) -> None:
        if self.offer is None:
            raise Unavailable("the target is not there yet; it is being loaded", retry_after_s=2.0)
        if model not in ("", self.offer.model.name):
            raise NotFound(f"model is {shown(model)}; this fleet serves {self.offer.model.name}")

    async def _encode(self, prompt: str | Sequence[int] | Sequence[Mapping[str, str]]) -> list[int]:
        text = self.text
        assert text is not None, "checked on admission"
        if isinstance(prompt, str):
            if len(prompt) >= _THREAD_FROM:
                return await asyncio.to_thread(text.encode, prompt)
            return text.encode(prompt)
        if not prompt:
            raise InvalidArgument("the prompt is empty; it has at least one token or message")
        if isinstance(prompt[0], int):
            return list(cast(Sequence[int], prompt))
        return await asyncio.to_thread(text.encode_chat, cast(Sequence[Mapping[str, str]], prompt))

    async def _constraint(self, json_schema: str) -> JsonAnswer | None:
        if not json_schema or self.text is None:
            return None
        return await asyncio.to_thread(self.text.grammars.answer, json_schema)

    def _begin(self, asked: Asked, tokens: list[int], constraint: JsonAnswer | None) -> Request:
        self._check(asked, tokens)
        mode = asked.speculation.mode or self.limits.mode
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        request = Request(
            id=RequestId(asked.request_id or secrets.token_hex(12)),
            tenant=asked.tenant,
            mode=mode,
            model=self.offer.model.name if self.offer is not None else "",
            seed=seed,
            num_prompt_tokens=len(tokens),
            choices=[
                self._choice(asked, tokens, mode, (seed + index) & MAX_SEED, constraint)
                for index in range(asked.num_choices)
            ],
            began_s=self.clock.now_s(),
        )
        self._requests[request.id] = request
        self.num_requests += 1
        for choice in request.choices:
            self._watch(request, choice)
            self.scheduler.submit(choice.sequence)
        if asked.deadline_s is not None:
            running = asyncio.get_running_loop()
            request.deadline = running.call_later(asked.deadline_s, self.cancel, request, Reason.DEADLINE)
        self._let_go(request)
        self.loop.poke()
        return request

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
        if len(tokens) + asked.stop.max_tokens > offer.max_context:
            raise InvalidArgument(
                f"the prompt has {len(tokens)} tokens and max_tokens is {asked.stop.max_tokens}; together they may be "
                f"{offer.max_context}, so shorten the prompt or ask for at most {offer.max_context - len(tokens)}"
            )
        known = {member.drafter for member in self.scheduler.roster.members}
        for drafter in asked.speculation.drafters:
            if drafter not in known:
                raise NotFound(f"drafter {shown(drafter)} is not in the fleet; there are {', '.join(sorted(known))}")
        if asked.speculation.max_draft is not None and not 1 <= asked.speculation.max_draft <= 64:
            raise InvalidArgument(f"max_draft is {asked.speculation.max_draft}; it is from 1 to 64")

    def _choice(self, asked: Asked, tokens: list[int], mode: str, seed: int, constraint: JsonAnswer | None) -> Choice:
        text, offer = self.text, self.offer
        assert text is not None, "checked on admission"
        assert offer is not None, "checked on admission"
        allowed = frozenset(map(DrafterId, asked.speculation.drafters)) or None
        sampling = replace(asked.sampling, seed=seed)
        answer = Answer(text.tokenizer, tokens, asked.stop, end_tokens=offer.eos_token_ids)
        sequence = RoutedSequence(
            id=SequenceId(str(self._next_sequence)),
            tenant=asked.tenant,
            tokens=list(tokens),
            num_prompt=len(tokens),
            max_tokens=asked.stop.max_tokens,
            sampling=sampling,
            parts=mode_parts(mode),
            max_draft=asked.speculation.max_draft or self.limits.max_draft,
            drafting=self.scheduler.roster.open(
                asked.tenant, tokens, temperature=sampling.temperature, allowed=allowed
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
        if choice.answer.ended is not None:
            self._ended(request, choice)

    def _ended(self, request: Request, choice: Choice) -> None:
        choice.ended_s = choice.ended_s or self.clock.now_s()
        if request.has_ended:
            if request.deadline is not None:
                request.deadline.cancel()
            asyncio.get_running_loop().call_later(self.limits.keep_s, self._requests.pop, request.id, None)

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
