"""From a request that was understood to its sequences and answers, new or as another router left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contracts.sampling import MAX_SEED
from contracts.types import DrafterId, RequestId, SequenceId
from router.admission import Admission, Understood
from router.answer import Answer
from router.modes import ModeParts, mode_parts
from router.request import Choice, Request
from router.scheduler import Scheduler
from router.sequence import RoutedSequence
from specfleet.tracing import Attributes, Span, Tracing

__all__ = ["RequestMaker"]


class RequestMaker:
    """See the module. Numbers the sequences; each has a span where there is `tracing`."""

    def __init__(self, admission: Admission, scheduler: Scheduler, tracing: Tracing | None = None) -> None:
        self._admission, self._scheduler, self._tracing = admission, scheduler, tracing
        self._next_sequence = 1

    def make(self, understood: Understood, *, began_s: float, committed: Sequence[Sequence[int]] = ()) -> Request:
        """With what was committed of each choice under another router."""
        asked, offer = understood.asked, self._admission.offer
        assert asked.seed is not None, "drawn on admission"
        return Request(
            id=RequestId(asked.request_id),
            tenant=asked.tenant,
            mode=asked.speculation.mode or self._admission.limits.mode,
            model=offer.model.name if offer is not None else "",
            seed=asked.seed,
            num_prompt_tokens=len(understood.tokens),
            choices=[
                self._choice(understood, committed[index] if committed else (), (asked.seed + index) & MAX_SEED)
                for index in range(asked.num_choices)
            ],
            began_s=began_s,
        )

    def _parts(self, mode: str) -> ModeParts:
        """Where drafting is not priced as a whole, its nodes are not either: drafters are to be seen at work."""
        parts = mode_parts(mode)
        return parts if self._scheduler.manners.is_priced else parts.without("pricing").without("budget")

    def _choice(self, understood: Understood, committed: Sequence[int], seed: int) -> Choice:
        text, offer, limits = self._admission.text, self._admission.offer, self._admission.limits
        assert text is not None, "checked on admission"
        assert offer is not None, "checked on admission"
        asked, prompt, constraint = understood.asked, understood.tokens, understood.constraint
        allowed = frozenset(map(DrafterId, asked.speculation.drafters)) or None
        sampling = replace(asked.sampling, seed=seed)
        answer = Answer(text.tokenizer, prompt, asked.stop, end_tokens=offer.eos_token_ids)
        tokens, span = [*prompt, *committed], self._span(understood)
        sequence = RoutedSequence(
            id=SequenceId(str(self._next_sequence)),
            tenant=asked.tenant,
            tokens=tokens,
            num_prompt=len(prompt),
            max_tokens=asked.stop.max_tokens,
            sampling=sampling,
            parts=self._parts(asked.speculation.mode or limits.mode),
            max_draft=asked.speculation.max_draft or limits.max_draft,
            drafting=self._scheduler.roster.open(
                asked.tenant, tokens, temperature=sampling.temperature, num_prompt=len(prompt), allowed=allowed
            ),
            output=answer,
            constraint=constraint.copy() if constraint is not None else None,
            allowed_drafters=allowed,
            priority=asked.priority,
            request=asked.request_id,
            trace=span.header if span is not None else "",
        )
        self._next_sequence += 1
        return Choice(sequence=sequence, answer=answer, span=span)

    def _span(self, understood: Understood) -> Span | None:
        if self._tracing is None:
            return None
        asked = understood.asked
        attributes: Attributes = {
            "specfleet.request": asked.request_id,
            "specfleet.sequence": self._next_sequence,
            "specfleet.mode": asked.speculation.mode or self._admission.limits.mode,
            "specfleet.prompt_tokens": len(understood.tokens),
        }
        return self._tracing.begin("sequence", parent=asked.trace, attributes=attributes)
