"""A fleet whose answers are scripted: a real gRPC server in a thread of its own, that can lose its streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from specfleet.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc, types_pb2
from specfleet.v1 import inference_pb2 as pb

SEED = 7


@dataclass(frozen=True)
class Word:
    """One token of an answer."""

    token_id: int
    text: str
    drafter: str = ""
    logprob: float | None = None


ANSWER = (
    Word(11, "The", ""),
    Word(12, " sea", "general"),
    Word(13, " is", "general"),
    Word(14, "", "code"),
    Word(15, " é", "code"),
    Word(16, ".", ""),
)


@dataclass
class Refusal:
    """A status instead of an answer, with or without the details that a fleet adds."""

    code: grpc.StatusCode
    message: str
    retry_after_s: float | None = None
    reason: str = ""

    async def raise_in(self, context: Any) -> None:
        details = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="specfleet", metadata={"key": "v"}))
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(1e3 * self.retry_after_s))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        trailing = rpc_status.to_status(status).trailing_metadata if packed else ()
        await context.abort(self.code, self.message, trailing)


CUT = Refusal(grpc.StatusCode.UNAVAILABLE, "Socket closed")
"""What a client sees of a stream that was lost."""


@dataclass
class Script:
    """What the fleet does. Lists are used up, one entry for each stream; what is left out is the undisturbed way."""

    answers: Sequence[Sequence[Word]] = (ANSWER,)
    reason: pb.FinishReason = pb.FINISH_REASON_STOP
    held_text: str = ""
    error: str = ""
    sizes: Sequence[int] = (1,)
    """How many tokens the messages have, in turn."""
    cuts: list[int] = field(default_factory=list)
    """After so many responses the stream is lost."""
    rewinds: list[int] = field(default_factory=list)
    """A resumed stream begins so many tokens too early."""
    skips: list[int] = field(default_factory=list)
    """A resumed stream begins so many tokens too late."""
    stall_after: int | None = None
    """After so many responses nothing comes until the request is cancelled."""
    status: admin_pb2.StatusResponse = field(default_factory=admin_pb2.StatusResponse)
    models: Sequence[pb.ListModelsResponse.Model] = ()
    spans: Callable[[], Sequence[admin_pb2.TimelineResponse.Span]] = lambda: ()
    drained: Sequence[str] = ()


class ScriptedFleet(inference_pb2_grpc.InferenceServicer, admin_pb2_grpc.AdminServicer):
    """Keeps what it was asked in `calls`, with the metadata of the last in `metadata`."""

    def __init__(self) -> None:
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """A new script, and nothing asked yet."""
        self.script = Script()
        self.on_call: Callable[[Any], Refusal | None] = lambda request: None
        """May refuse a call."""
        self.on_response: Callable[[int], None] = lambda number: None
        """Sees the number of each response of a stream before it goes out."""
        self.calls: list[Any] = []
        self.metadata: dict[str, Any] = {}
        self.remaining_s: float | None = None
        self.stalled = threading.Event()
        self.told_to_cancel = threading.Event()
        self.ended = threading.Event()
        self._requests: dict[str, pb.GenerateRequest] = {}
        self._cancelled: dict[str, asyncio.Event] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def asked(self, kind: type) -> list[Any]:
        """The requests of one kind, in order."""
        return [call for call in self.calls if isinstance(call, kind)]

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        await self._note(request, context)
        self._requests[request.request_id] = request
        self._cancelled.setdefault(request.request_id, asyncio.Event())
        async for response in self._stream(request.request_id, [0] * len(self.script.answers), context, started=True):
            yield response

    async def Resume(self, request: pb.ResumeRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        await self._note(request, context)
        rewind = self.script.rewinds.pop(0) if self.script.rewinds else 0
        skip = self.script.skips.pop(0) if self.script.skips else 0
        first = [max(index - rewind, 0) + skip for index in request.next_index]
        async for response in self._stream(request.request_id, first, context, started=False):
            yield response

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        await self._note(request, context)
        event = self._cancelled.setdefault(request.request_id, asyncio.Event())
        was_running = request.request_id in self._requests and not event.is_set()
        event.set()
        self.told_to_cancel.set()
        return pb.CancelResponse(was_running=was_running)

    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        await self._note(request, context)
        texts = [request.prompt, *(message.content for message in request.chat.messages)]
        return pb.CountTokensResponse(num_tokens=sum(len(text.split()) for text in texts))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        await self._note(request, context)
        return pb.ListModelsResponse(models=self.script.models)

    async def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusResponse:
        await self._note(request, context)
        return self.script.status

    async def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> admin_pb2.DrainResponse:
        await self._note(request, context)
        return admin_pb2.DrainResponse(workers=self.script.drained)

    async def Timeline(
        self, request: admin_pb2.TimelineRequest, context: Any
    ) -> AsyncIterator[admin_pb2.TimelineResponse]:
        await self._note(request, context)
        yield admin_pb2.TimelineResponse(spans=self.script.spans())
        await asyncio.Event().wait()

    async def _note(self, request: Any, context: Any) -> None:
        self.calls.append(request)
        self.metadata = dict(context.invocation_metadata())
        self.remaining_s = context.time_remaining()
        refusal = self.on_call(request)
        if refusal is not None:
            await refusal.raise_in(context)

    async def _stream(
        self, request_id: str, first: Sequence[int], context: Any, *, started: bool
    ) -> AsyncIterator[pb.GenerateResponse]:
        cut = self.script.cuts.pop(0) if self.script.cuts else None
        responses = self._responses(request_id, first, started=started)
        try:
            for number, response in enumerate(responses):
                self.on_response(number)
                if number == cut:
                    await CUT.raise_in(context)
                if number == self.script.stall_after:
                    self.stalled.set()
                    await self._cancelled[request_id].wait()
                    for choice in range(len(first)):
                        yield self._finished(request_id, choice, number - 1, pb.FINISH_REASON_CANCELLED)
                    return
                yield response
        finally:
            self.ended.set()

    def _responses(self, request_id: str, first: Sequence[int], *, started: bool) -> list[pb.GenerateResponse]:
        script = self.script
        responses = []
        if started:
            hello = pb.Started(num_prompt_tokens=3, model="target", seed=SEED)
            responses.append(pb.GenerateResponse(request_id=request_id, started=hello))
        # The choices take turns, message by message, so that they are mixed in the stream.
        waiting = [list(enumerate(answer))[first[choice] :] for choice, answer in enumerate(script.answers)]
        turn = 0
        while any(waiting):
            for choice, words in enumerate(waiting):
                size = script.sizes[turn % len(script.sizes)]
                turn += 1
                if words:
                    tokens = pb.Tokens(choice=choice, first_index=words[0][0])
                    tokens.tokens.extend(_token(word) for _, word in words[:size])
                    responses.append(pb.GenerateResponse(request_id=request_id, tokens=tokens))
                    del words[:size]
        for choice, answer in enumerate(script.answers):
            responses.append(self._finished(request_id, choice, len(answer), script.reason))
        return responses

    def _finished(self, request_id: str, choice: int, num_tokens: int, reason: pb.FinishReason) -> pb.GenerateResponse:
        finished = pb.Finished(choice=choice, reason=reason, text=self.script.held_text, error=self.script.error)
        finished.usage.num_prompt_tokens = 3
        finished.usage.num_completion_tokens = num_tokens
        finished.statistics.mode = types_pb2.MODE_FLEET
        finished.statistics.num_rounds = 3
        finished.statistics.num_draft_tokens = 8
        finished.statistics.num_accepted_tokens = 4
        finished.statistics.mean_acceptance_length = 2.0
        finished.statistics.acceptance_histogram.extend([1, 0, 2])
        finished.statistics.accepted_by_drafter["general"] = 2
        finished.statistics.accepted_by_drafter["code"] = 2
        finished.statistics.elapsed_s = 0.5
        return pb.GenerateResponse(request_id=request_id, finished=finished)


def _token(word: Word) -> pb.Token:
    token = pb.Token(token_id=word.token_id, text=word.text, drafter=word.drafter)
    if word.logprob is not None:
        token.logprob.token = word.token_id
        token.logprob.logprob = word.logprob
        token.logprob.top.add(token=word.token_id, logprob=word.logprob)
    return token


class LossyProxy:
    """A TCP proxy before the fleet whose connections can be reset, as when a machine goes away; or are slow to open."""

    def __init__(self, port: int, *, delay_s: float = 0.0) -> None:
        self.port = 0
        self._target, self._delay_s = port, delay_s
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.reset()

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._delay_s)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.transport.abort()


class ServerThread:
    """An event loop in a thread, where servers live. Clients in the test's own thread may block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers")
        self._thread.start()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wrapped() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(timeout=30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def serve(fleet: ScriptedFleet, port: int = 0) -> grpc.aio.Server:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServicer_to_server(fleet, server)
    admin_pb2_grpc.add_AdminServicer_to_server(fleet, server)
    fleet.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


@contextmanager
def running_fleet() -> Iterator[tuple[ScriptedFleet, ServerThread]]:
    """A fleet that serves, and the thread it lives in."""
    thread, fleet = ServerThread(), ScriptedFleet()
    server = thread.run(serve(fleet))
    try:
        yield fleet, thread
    finally:
        thread.run(server.stop(None))
        thread.stop()
