"""The client for code that blocks. Many threads may share one."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Self, Unpack

from specfleet import from_wire
from specfleet.delivery import Delivery, completion
from specfleet.errors import Internal, InvalidRequest, SpecfleetClientError, Unavailable
from specfleet.events import Completion, Model, Started, TokenEvent
from specfleet.options import GenerateOptions, Prompt, count_request, generate_request
from specfleet.patience import Patience
from specfleet.transport import Transport
from specfleet.v1 import inference_pb2 as pb

__all__ = ["Client", "Generation"]

_CANCEL_TIMEOUT_S = 2.0


class Client:
    """Talks to one fleet; `AsyncClient` without async.

        with Client("127.0.0.1:50051") as client:
            for event in client.generate("The sea is", max_tokens=64):
                print(event.text, end="", flush=True)

    It has channels of its own kind rather than an event loop in a thread: a token then takes no detour, Ctrl-C ends
    the wait at once, and nothing runs behind the back of a program that forks.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: str | os.PathLike[str] | None = None,
        transport: Transport | None = None,
        timeout_s: float | None = None,
        resume_for_s: float = 60.0,
    ) -> None:
        if transport is None:
            from specfleet.grpc_transport import GrpcTransport

            transport = GrpcTransport(address, api_key=api_key, tls=tls)
        self._transport = transport
        self._timeout_s = timeout_s
        self._resume_for_s = resume_for_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is under way. The fleet gives requests up that nobody comes back for."""
        self._transport.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Generates text: an iterator of `TokenEvent`s. Leaving it early cancels the request.

        Wrong options are refused here; all other errors come while iterating.
        """
        request = generate_request(prompt, options)
        deadline_s = options.get("deadline_s")
        patience = Patience(
            time.monotonic,
            deadline_s=self._timeout_s if deadline_s is None else deadline_s,
            resume_for_s=self._resume_for_s,
        )
        return Generation(self._transport, request, patience)

    def complete(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """The whole answer at once, for one choice."""
        if options.get("num_choices", 1) not in (0, 1, None):
            raise InvalidRequest("complete gives one answer; for several choices iterate over generate")
        generation = self.generate(prompt, **options)
        events = list(generation)
        return completion(generation.request_id, generation.started, events)

    def cancel(self, request_id: str) -> bool:
        """Ends a request early; whether it was still running. Its stream ends with the reason `cancelled`."""
        return self._transport.cancel(pb.CancelRequest(request_id=request_id), self._timeout_s).was_running

    def count_tokens(self, prompt: str | Sequence[Mapping[str, str]], *, model: str | None = None) -> int:
        """How many tokens a text or a chat has."""
        return self._transport.count_tokens(count_request(prompt, model), self._timeout_s).num_tokens

    def list_models(self) -> tuple[Model, ...]:
        """What the fleet serves."""
        answer = self._transport.list_models(pb.ListModelsRequest(), self._timeout_s)
        return tuple(from_wire.model(model) for model in answer.models)


class Generation:
    """One request under way: iterate over it for its events. `started` is None until the fleet has accepted it."""

    def __init__(self, transport: Transport, request: pb.GenerateRequest, patience: Patience) -> None:
        self.request_id = request.request_id
        self._delivery = Delivery(request)
        self._events = _events(transport, request, self._delivery, patience)

    @property
    def started(self) -> Started | None:
        return self._delivery.started

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        return next(self._events)

    def close(self) -> None:
        """Cancels the request, unless it has ended."""
        self._events.close()


def _events(
    transport: Transport, request: pb.GenerateRequest, delivery: Delivery, patience: Patience
) -> Generator[TokenEvent, None, None]:
    """The events of all streams that it takes, without what was seen twice. The twin of `async_client._events`."""
    try:
        while True:
            try:
                with closing(_stream(transport, request, delivery, patience.remaining_s())) as responses:
                    for response in responses:
                        yield from delivery.take(response, time.perf_counter())
                        if delivery.is_complete:
                            delivery.check()
                            return
                raise Internal("the stream ended before the answer was whole")
            except Unavailable as error:
                time.sleep(patience.wait_s(error, has_begun=delivery.has_begun, progress=delivery.progress))
    except BaseException as error:
        # Refused: nothing to cancel. Otherwise the fleet may be at work for someone who has left.
        if not delivery.is_complete and (delivery.has_begun or not isinstance(error, SpecfleetClientError)):
            _cancel(transport, request.request_id)
        raise


def _stream(
    transport: Transport, request: pb.GenerateRequest, delivery: Delivery, timeout_s: float | None
) -> Generator[pb.GenerateResponse, None, None]:
    """Until the fleet has answered, the same request again: its id makes sure that it is generated once."""
    if delivery.has_begun:
        return transport.resume(delivery.resume_request(), timeout_s)
    return transport.generate(request, timeout_s)


def _cancel(transport: Transport, request_id: str) -> None:
    try:
        transport.cancel(pb.CancelRequest(request_id=request_id), _CANCEL_TIMEOUT_S)
    except SpecfleetClientError:
        return  # gone already, or out of reach: then the fleet gives it up by itself
