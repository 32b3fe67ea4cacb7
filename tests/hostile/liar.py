"""A drafter that is none: it joins over a real socket, hears what a drafter hears, and says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from specfleet.v1 import fleet_pb2

JOIN = "/specfleet.v1.Fleet/Join"
DEADLINE_S = 60.0
PACE_S = 0.001


@dataclass
class Heard:
    """A sequence as the liar knows it."""

    sequence: int
    epoch: int
    tokens: list[int]
    num_prompt: int
    num_wanted: int = 0


class Liar:
    """`says` makes its next message of what it has heard; with None it says nothing for now."""

    def __init__(
        self,
        address: str,
        name: str,
        says: Callable[[Mapping[int, Heard]], bytes | None],
        *,
        hello: Mapping[str, object] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address, self.name, self.says, self.credentials = address, name, says, credentials
        self.hello = {"kind": "liar", "capacity": 64, "step_s": 0.001, "has_logits": True, **(hello or {})}
        self.num_joined = 0
        self.heard: dict[int, Heard] = {}
        self.errors: list[grpc.aio.AioRpcError] = []

    async def until_refused(self, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
        """Joins, lies, and joins again when it is thrown out, until it hears this."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await self.lie()
                except grpc.aio.AioRpcError as error:
                    self.errors.append(error)
                    if error.code() is code:
                        return error

    async def lie(self) -> None:
        """The life of one stream."""
        self.heard.clear()
        async with self._channel() as channel:
            call: Any = channel.stream_stream(JOIN, None, fleet_pb2.ToWorker.FromString)()
            try:
                hello = fleet_pb2.DrafterHello(name=self.name, **self.hello)  # type: ignore[arg-type]
                await call.write(fleet_pb2.FromWorker(drafter_hello=hello).SerializeToString())
                if await call.read() is grpc.aio.EOF:
                    return
                self.num_joined += 1
                await self._talk(call)
            except asyncio.InvalidStateError:  # it is over, and reading says why
                await call.read()
            finally:
                call.cancel()

    async def _talk(self, call: Any) -> None:
        hearing = asyncio.create_task(self._hear(call))
        try:
            while not hearing.done():
                message = self.says(self.heard)
                if message is not None:
                    await call.write(message)
                await asyncio.sleep(PACE_S)
            await hearing
        finally:
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await hearing

    async def _hear(self, call: Any) -> None:
        while isinstance(message := await call.read(), fleet_pb2.ToWorker):
            work = message.drafter_work
            for number in work.close:
                self.heard.pop(number, None)
            for each in work.open:
                self.heard[each.sequence] = Heard(each.sequence, each.epoch, list(each.tokens), each.num_prompt)
            for commit in work.commit:
                if (known := self.heard.get(commit.sequence)) is not None:
                    known.tokens += commit.tokens
            for want in work.want:
                if (known := self.heard.get(want.sequence)) is not None:
                    known.num_wanted = want.num_nodes

    def _channel(self) -> grpc.aio.Channel:
        options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        if self.credentials is not None:
            return grpc.aio.secure_channel(self.address, self.credentials, options=options)
        return grpc.aio.insecure_channel(self.address, options=options)


@contextlib.asynccontextmanager
async def lying(liar: Liar) -> AsyncIterator[Liar]:
    """It lies for as long as the block runs, on one stream that nobody may end."""
    num_before, task = liar.num_joined, asyncio.create_task(liar.lie())
    try:
        async with asyncio.timeout(DEADLINE_S):
            while liar.num_joined == num_before and not task.done():  # noqa: ASYNC110  # it says it nowhere else
                await asyncio.sleep(PACE_S)
        yield liar
        if task.done():
            task.result()
            raise AssertionError(f"the router ended the stream of {liar.name}")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await task


def drafts(*drafts: fleet_pb2.Draft, **fields: Any) -> bytes:
    """A drafter's message."""
    return fleet_pb2.FromWorker(drafts=fleet_pb2.Drafts(drafts=drafts, **fields)).SerializeToString()


def nodes(*nodes: tuple[int, int, float]) -> list[fleet_pb2.DraftNode]:
    """From (token, parent, confidence)."""
    return [fleet_pb2.DraftNode(token=token, parent=parent, confidence=sure) for token, parent, sure in nodes]
