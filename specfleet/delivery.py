"""What has arrived of one request: each token once and in order, whatever streams it came over.

No input or output and no clock, so that the blocking client and the other share it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from specfleet import from_wire
from specfleet.errors import Internal
from specfleet.events import Completion, Started, TokenEvent
from specfleet.v1 import inference_pb2 as pb

__all__ = ["Delivery", "completion"]


class Delivery:
    """Takes responses as they come and gives the events that are new.

    Exactly once, because every token has an index: what is below the next expected one was seen before a stream was
    lost and is dropped, and what is above it would leave a gap, which is an error and never passed on.

    The newest token of a choice is held back until its successor or the end is known, so that the last event can carry
    usage and statistics.
    """

    def __init__(self, request: pb.GenerateRequest) -> None:
        self.started: Started | None = None
        self.request_id = request.request_id
        self._choices = [_Choice(number) for number in range(max(request.num_choices, 1))]

    @property
    def has_begun(self) -> bool:
        """Whether the fleet has said anything yet: then it knows the request, and can resume it."""
        return self.started is not None or any(choice.next_index or choice.has_finished for choice in self._choices)

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.has_finished for choice in self._choices)

    @property
    def progress(self) -> int:
        """Grows with everything that is new."""
        return sum(choice.next_index + choice.has_finished for choice in self._choices) + (self.started is not None)

    def resume_request(self) -> pb.ResumeRequest:
        """Asks for what is missing."""
        return pb.ResumeRequest(request_id=self.request_id, next_index=[choice.next_index for choice in self._choices])

    def take(self, response: pb.GenerateResponse, received_s: float) -> list[TokenEvent]:
        """The events that are new in a response."""
        match response.WhichOneof("event"):
            case "started":
                self.started = self.started or from_wire.started(response.started)
                return []
            case "tokens":
                return self._choice(response.tokens.choice).take(response.tokens, received_s)
            case "finished":
                return self._choice(response.finished.choice).finish(response.finished, received_s)
            case _:
                return []  # an event of a newer fleet, which this client can do without

    def check(self) -> None:
        """Raises what went wrong in a choice. Only when all are through: one's error takes nothing from the others."""
        for choice in self._choices:
            if choice.error is not None:
                raise Internal(choice.error)

    def _choice(self, number: int) -> _Choice:
        if number >= len(self._choices):
            raise Internal(f"the fleet answered for choice {number}; {len(self._choices)} were asked for")
        return self._choices[number]


class _Choice:
    def __init__(self, number: int) -> None:
        self.number = number
        self.next_index = 0
        self.has_finished = False
        self.error: str | None = None
        self._held: TokenEvent | None = None

    def take(self, tokens: pb.Tokens, received_s: float) -> list[TokenEvent]:
        if tokens.first_index > self.next_index:
            raise Internal(
                f"tokens {self.next_index} to {tokens.first_index - 1} of choice {self.number} are missing:"
                " the fleet went on after a gap"
            )
        events: list[TokenEvent] = []
        for token in tokens.tokens[self.next_index - tokens.first_index :]:
            if self._held is not None:
                events.append(self._held)
            self._held = from_wire.token_event(token, index=self.next_index, choice=self.number, received_s=received_s)
            self.next_index += 1
        return events

    def finish(self, finished: pb.Finished, received_s: float) -> list[TokenEvent]:
        if self.has_finished:
            return []
        if finished.usage.num_completion_tokens > self.next_index:
            raise Internal(
                f"choice {self.number} ended after {self.next_index} tokens;"
                f" by the fleet's own count it has {finished.usage.num_completion_tokens}"
            )
        self.has_finished = True
        if finished.reason == pb.FINISH_REASON_ERROR:
            self.error = finished.error or "the fleet gave up without a reason"
        last = self._held or TokenEvent(index=None, token_id=None, text="", choice=self.number, received_s=received_s)
        self._held = None
        return [
            replace(
                last,
                text=last.text + finished.text,
                finish_reason=from_wire.finish_reason(finished.reason),
                stop=finished.stop or None,
                usage=from_wire.usage(finished.usage),
                statistics=from_wire.statistics(finished.statistics),
            )
        ]


def completion(request_id: str, started: Started | None, events: Iterable[TokenEvent]) -> Completion:
    """All events of a request with one choice as one value."""
    every = tuple(events)
    last = every[-1]
    assert last.usage is not None, "a delivery that is complete ends with its last event"
    assert last.statistics is not None
    assert last.finish_reason is not None
    tokens = [(event.token_id, event.drafter) for event in every if event.token_id is not None]
    return Completion(
        request_id=request_id,
        text="".join(event.text for event in every),
        token_ids=tuple(token for token, _ in tokens),
        drafters=tuple(drafter for _, drafter in tokens),
        finish_reason=last.finish_reason,
        seed=started.seed if started is not None else 0,
        usage=last.usage,
        statistics=last.statistics,
        events=every,
    )
