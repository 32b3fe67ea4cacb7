"""What is let in: checks, limits and quotas, and what a prompt is in tokens."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from contracts.errors import InvalidArgument, NotFound, Overloaded, Unavailable, shown
from contracts.sampling import MAX_CHOICES, MAX_SEED, check_integer
from router.asked import Asked
from router.json_answer import JsonAnswer
from router.orders import VerifierOffer
from router.scheduler import Scheduler
from router.security.bounds import check_model, check_prompt
from router.security.quotas import Quotas
from router.target_text import TargetText

__all__ = ["Admission", "FrontLimits", "Understood"]

_PUNCTUAL = 1.5  # an estimate is right on average, and of those who are accepted nearly all are to be in time
_MOST_NAMED = 12  # drafters in a refusal; a fleet may have hundreds
_THREAD_FROM = 4_000  # characters from which a prompt is encoded in a thread, not between two rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontLimits:
    """How much may be asked at once, and how long an answer is kept for those who come back for it."""

    mode: str = "fleet"
    max_draft: int = 8
    max_waiting: int = 256
    keep_s: float = 60.0
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A request with nothing left open: its tokens, and what its answer has to fit."""

    asked: Asked
    tokens: list[int]
    constraint: JsonAnswer | None


class Admission:
    """See the module. Knows the target once one has joined."""

    def __init__(self, scheduler: Scheduler, limits: FrontLimits, quotas: Quotas) -> None:
        self.limits, self.quotas = limits, quotas
        self.offer: VerifierOffer | None = None
        self.text: TargetText | None = None
        self.is_draining = False
        self.num_coming = 0
        """Sequences of requests that were let in and wait for the journal."""
        self._scheduler = scheduler

    async def understand(self, asked: Asked) -> Understood:
        """Checked, with a seed and a mode; refused at once with the reason."""
        self._admit(asked)
        tokens = await self.encode(asked.prompt)
        if asked.fills_context and self.offer is not None:
            room = max(self.offer.max_context - len(tokens), 1)
            asked = replace(asked, stop=replace(asked.stop, max_tokens=min(asked.stop.max_tokens, room)))
        constraint = await self.constraint(asked.json_schema)
        self._admit(asked)  # others may have come meanwhile
        self.check_tokens(asked, tokens)
        self._check_drafters(asked)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        speculation = replace(asked.speculation, mode=asked.speculation.mode or self.limits.mode)
        sampling = replace(asked.sampling, seed=seed)
        asked = replace(asked, seed=seed, sampling=sampling, speculation=speculation)
        return Understood(asked=asked, tokens=tokens, constraint=constraint)

    async def encode(self, prompt: str | Sequence[int] | Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a prompt, of a text that is not longer than it may be."""
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

    async def constraint(self, json_schema: str) -> JsonAnswer | None:
        """What an answer to this schema has to fit."""
        if not json_schema or self.text is None:
            return None
        return await asyncio.to_thread(self.text.grammars.answer, json_schema)

    def check_model(self, model: str) -> None:
        """Whether there is a target, and it is the one that is meant."""
        check_model(model)
        if self.offer is None:
            raise Unavailable("the target is not there yet; it is being loaded", retry_after_s=2.0)
        if model not in ("", self.offer.model.name):
            raise NotFound(f"model is {shown(model)}; this fleet serves {self.offer.model.name}")

    def check_tokens(self, asked: Asked, tokens: Sequence[int]) -> None:
        """Whether the target knows them all, and has room for the answer too."""
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

    def _admit(self, asked: Asked) -> None:
        if self.is_draining:
            raise Unavailable("the fleet is being drained and takes no new requests; ask another", retry_after_s=5.0)
        self.check_model(asked.model)
        if not 1 <= asked.num_choices <= MAX_CHOICES:
            raise InvalidArgument(f"num_choices is {asked.num_choices}; it is from 1 to {MAX_CHOICES}")
        if asked.seed is not None:
            check_integer("seed", asked.seed, 0, MAX_SEED)
        num_waiting = len(self._scheduler.waiting) + self.num_coming
        if num_waiting + asked.num_choices > self.limits.max_waiting:
            raise Overloaded(
                f"{num_waiting} sequences wait already and at most {self.limits.max_waiting} may; try again later",
                retry_after_s=1.0,
            )
        if asked.deadline_s is not None:
            self._check_deadline(asked, asked.deadline_s)
        self.quotas.check(
            asked.tenant,
            priority=asked.priority,
            waiting=[sequence.tenant for sequence in self._scheduler.waiting],
            num_choices=asked.num_choices,
            max_waiting=self.limits.max_waiting,
        )

    def _check_deadline(self, asked: Asked, deadline_s: float) -> None:
        """What cannot be ready in time is refused now, and takes no time from what can."""
        answered_in_s = _PUNCTUAL * self._scheduler.answered_in_s(self._num_before(asked))
        if answered_in_s > deadline_s:
            raise Overloaded(
                f"an answer would take about {answered_in_s:.1f} s with {len(self._scheduler.waiting)} sequences "
                f"waiting, and the deadline is in {deadline_s:.1f} s; try again later",
                retry_after_s=answered_in_s - deadline_s,
            )

    def _num_before(self, asked: Asked) -> int:
        """Of those that wait: its tenant's that go first, and as many of each other tenant, for tenants take turns."""
        num_of = Counter(sequence.tenant for sequence in self._scheduler.waiting)
        own = sum(
            sequence.tenant == asked.tenant and sequence.priority >= asked.priority
            for sequence in self._scheduler.waiting
        )
        return own + sum(min(num, own + 1) for tenant, num in num_of.items() if tenant != asked.tenant)

    def _check_drafters(self, asked: Asked) -> None:
        known = {member.drafter for member in self._scheduler.roster.members}
        for drafter in asked.speculation.drafters:
            if drafter not in known:
                some = ", ".join(sorted(known)[:_MOST_NAMED])
                more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
                raise NotFound(f"drafter {shown(drafter)} is not in the fleet; there are {some}{more}")
        if asked.speculation.max_draft is not None and not 1 <= asked.speculation.max_draft <= 64:
            raise InvalidArgument(f"max_draft is {asked.speculation.max_draft}; it is from 1 to 64")
