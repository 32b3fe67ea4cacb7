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
from specfleet.errors import Cancelled, Internal, InvalidRequest, SpecfleetClientError, Unavailable
from specfleet.events import Completion, Model, Started, TokenEvent
from specfleet.open_requests import OpenRequests
from specfleet.options import GenerateOptions, Prompt, checked_limit_s, count_request, generate_request
from specfleet.patience import Patience
from specfleet.transport import Transport
from specfleet.v1 import inference_pb2 as pb

__all__ = ["Client", "Generation"]


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
        self._open = OpenRequests(transport)
        self._timeout_s = checked_limit_s("timeout_s", timeout_s)
        self._resume_for_s = resume_for_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what is under way at the fleet, and closes the connection."""
        self._open.close()
        self._transport.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Generates text: an iterator of `TokenEvent`s. Leaving it early cancels the request.

        Wrong options are refused here; all other errors come while iterating.
        """
        request = generate_request(prompt, options)
        deadline_s = options.get("deadline_s")
        patience = Patience(
            time.monotonic,
            deadline_s=self._timeout_s if deadline_s is None else checked_limit_s("deadline_s", deadline_s),
            resume_for_s=self._resume_for_s,
        )
        return Generation(self._transport, request, patience, self._open)

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

    def __init__(
        self, transport: Transport, request: pb.GenerateRequest, patience: Patience, open_requests: OpenRequests
    ) -> None:
        self.request_id = request.request_id
        self._delivery, self._open = Delivery(request), open_requests
        self._events = _events(transport, request, self._delivery, patience, open_requests)

    @property
    def started(self) -> Started | None:
        return self._delivery.started

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        return next(self._events)

    def close(self) -> None:
        """Cancels the request, unless it has ended. A thread that waits for its events sees it end as `cancelled`."""
        try:
            self._events.close()
        except ValueError:  # what Python says where another thread is in it
            self._open.leave(self._delivery)


def _events(
    transport: Transport,
    request: pb.GenerateRequest,
    delivery: Delivery,
    patience: Patience,
    open_requests: OpenRequests,
) -> Generator[TokenEvent, None, None]:
    """The events of all streams that it takes, without what was seen twice. The twin of `async_client._events`."""
    open_requests.begin(delivery)
    try:
        while open_requests.has(delivery):
            try:
                with closing(_stream(transport, request, delivery, patience.begin())) as responses:
                    for response in responses:
                        if open_requests.is_closed:
                            raise Cancelled("the client was closed while the call was under way")
                        yield from delivery.take(response, time.perf_counter())
                        if delivery.is_complete:
                            delivery.check()
                            return
                raise Internal("the stream ended before the answer was whole")
            except Unavailable as error:
                time.sleep(patience.wait_s(error, has_begun=delivery.has_begun, progress=delivery.progress))
        raise Cancelled("the request was left while its stream was lost")
    except BaseException as error:
        # Refused: nothing to cancel. Otherwise the fleet may be at work for someone who has left.
        if delivery.has_begun or not isinstance(error, SpecfleetClientError):
            open_requests.leave(delivery)
        raise
    finally:
        open_requests.end(delivery)


def _stream(
    transport: Transport, request: pb.GenerateRequest, delivery: Delivery, timeout_s: float | None
) -> Generator[pb.GenerateResponse, None, None]:
    """Until the fleet has answered, the same request again: its id makes sure that it is generated once."""
    if delivery.has_begun:
        return transport.resume(delivery.resume_request(), timeout_s)
    return transport.generate(request, timeout_s)
