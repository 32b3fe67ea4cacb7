"""The router's side of the wire, as far as workers can tell: a real server that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from contracts.types import SamplingParams
from specfleet.v1 import fleet_pb2, types_pb2
from workers.process import Worker, serve

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.so_reuseport", 0),  # the port is this server's, or it does not start
)

Refusal = tuple[grpc.StatusCode, str]
Judge = Callable[[fleet_pb2.FromWorker], Refusal | None]


class Peer:
    """One worker that joined."""

    def __init__(self, hello: fleet_pb2.FromWorker, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.hello = hello
        self.is_over = asyncio.Event()
        self._context = context
        self._said: asyncio.Queue[fleet_pb2.FromWorker] = asyncio.Queue()

    async def send(self, message: fleet_pb2.ToWorker | bytes) -> None:
        """Bytes go as they are, whatever they are."""
        await self._context.write(message)

    async def round(
        self, items: Sequence[fleet_pb2.Round.Item], *, number: int = 1, **work: Any
    ) -> fleet_pb2.RoundDone:
        """A round and what came of it."""
        message = fleet_pb2.Round(round=number, items=items)
        await self.send(fleet_pb2.ToWorker(verifier_work=fleet_pb2.VerifierWork(round=message, **work)))
        done = (await self.hear()).round_done
        assert done.round == number
        return done

    async def hear(self) -> fleet_pb2.FromWorker:
        """What the worker says next."""
        return await asyncio.wait_for(self._said.get(), 60)

    async def listen(self) -> None:
        """Until the worker has no more to say."""
        while isinstance(message := await self._context.read(), fleet_pb2.FromWorker):
            self._said.put_nowait(message)
        self.is_over.set()


class RouterSide:
    """A server that lets in whom `judge` has nothing against."""

    def __init__(self, *, judge: Judge = lambda hello: None, port: int = 0) -> None:
        self._judge, self._joined = judge, asyncio.Queue[Peer]()
        self._server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._join, fleet_pb2.FromWorker.FromString, _serialized)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("specfleet.v1.Fleet", {"Join": handler}),)
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.num_asked = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def joined(self) -> Peer:
        """The next worker that joins."""
        return await asyncio.wait_for(self._joined.get(), 60)

    async def __aenter__(self) -> RouterSide:
        await self._server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop(grace=0)

    async def _join(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        hello = await context.read()
        assert isinstance(hello, fleet_pb2.FromWorker)
        self.num_asked += 1
        if (refusal := self._judge(hello)) is not None:
            await context.abort(*refusal)
        await context.write(fleet_pb2.ToWorker(welcome=fleet_pb2.Welcome(router="test")))
        peer = Peer(hello, context)
        self._joined.put_nowait(peer)
        await peer.listen()


@contextlib.asynccontextmanager
async def joined(worker: Worker) -> AsyncIterator[Peer]:
    """A worker that has joined a router of its own; it must leave in peace when the block is left."""
    async with RouterSide() as router:
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(worker, router=router.address, stop=stop))
        try:
            yield await router.joined()
        finally:
            stop.set()
            await asyncio.wait_for(serving, 60)


def opening(
    sequence: int,
    tokens: Sequence[int],
    sampling: SamplingParams | None = None,
    *,
    epoch: int = 0,
    num_prompt: int | None = None,
    tenant: str = "",
) -> fleet_pb2.Opening:
    return fleet_pb2.Opening(
        sequence=sequence,
        epoch=epoch,
        tenant=tenant,
        tokens=tokens,
        num_prompt=len(tokens) if num_prompt is None else num_prompt,
        sampling=wire_sampling(sampling or SamplingParams()),
    )


def wire_sampling(sampling: SamplingParams) -> types_pb2.Sampling:
    """Every field said, as a router would that believes in defaults less than we do."""
    message = types_pb2.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=sampling.logit_bias,
        seed=sampling.seed,
        num_logprobs=sampling.num_logprobs,
    )
    if sampling.allowed_token_ids is not None:
        message.allowed_token_ids.ids.extend(sampling.allowed_token_ids)
    return message


def item(
    sequence: int,
    position: int,
    nodes: Sequence[tuple[int, int]] = (),
    *,
    epoch: int = 0,
    num_pending: int | None = None,
    masks: Sequence[bytes] = (),
) -> fleet_pb2.Round.Item:
    """A sequence's part of a round; nodes are (token, parent)."""
    return fleet_pb2.Round.Item(
        sequence=sequence,
        epoch=epoch,
        position=position,
        num_pending=num_pending,
        nodes=[fleet_pb2.DraftNode(token=token, parent=parent, confidence=0.5) for token, parent in nodes],
        masks=masks,
    )


def _serialized(message: fleet_pb2.ToWorker | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
