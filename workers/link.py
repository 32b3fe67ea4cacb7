"""The way to the router: one bidirectional stream, dialled again for ever when it is lost.

The stream's life is the worker's membership. What a worker knows of sequences belongs to the stream that told it:
with the stream it is gone, and on the next the router opens again what it wants.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from contracts.clock import Clock, SystemClock
from contracts.errors import ConfigError, InvalidArgument
from specfleet.errors import InvalidRequest
from specfleet.tls import TlsFolder
from specfleet.v1 import fleet_pb2
from workers.inbox import Inbox

__all__ = ["CHANNEL_OPTIONS", "Arrival", "Link", "Stream", "delays_s"]

logger = logging.getLogger(__name__)

_JOIN = "/specfleet.v1.Fleet/Join"
_MAX_MESSAGE_BYTES = 64 * 2**20
_PING_MS = 3_000
_PATIENCE_MS = 5_000
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A peer that is gone without a word is noticed within eight seconds, whether nothing confirms what was sent (a dead
    # machine or link), or nothing answers (a process that stands still). The router must allow pings that often, with
    # grpc.http2.max_ping_strikes, or it takes them for an attack and hangs up.
    ("grpc.keepalive_time_ms", _PING_MS),
    ("grpc.keepalive_timeout_ms", _PATIENCE_MS),
    ("grpc.http2.ping_timeout_ms", _PATIENCE_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", _PATIENCE_MS),  # for so long at most it waits for an address that does not answer
    # Every dialling is a new connection, with delays of our own and none that earlier channels have left behind.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy of the environment (https_proxy, http_proxy) is for the world outside, and not between parts of a fleet.
    ("grpc.enable_http_proxy", 0),
)

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)
"""What would be the same the next time. All else is a matter of time."""

_FIRST_DELAY_S, _LAST_DELAY_S = 0.1, 5.0

_Call = grpc.aio.StreamStreamCall[Message, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A message and the stream that it came on; without a message: that stream is lost."""

    stream: Stream
    message: fleet_pb2.ToWorker | None


class Stream:
    """One joined stream, as the thread that works sees it: a place for answers."""

    def __init__(self, *, capacity: int = 64) -> None:
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(capacity)
        self._outgoing: asyncio.Queue[fleet_pb2.FromWorker | None] = asyncio.Queue()

    def send(self, message: fleet_pb2.FromWorker) -> None:
        """From any thread but the loop's; waits while too much is on its way, and does nothing once it is lost."""
        if self.is_lost:
            return
        self._room.acquire()
        if not self.is_lost:
            self._loop.call_soon_threadsafe(self._outgoing.put_nowait, message)

    async def carry(self, call: _Call) -> None:
        """Writes what is sent, each message at once, until `end`."""
        while (message := await self._outgoing.get()) is not None:
            await call.write(message)
            self._room.release()
        await call.done_writing()

    def end(self) -> None:
        """Nothing is sent after what was sent by now."""
        self._outgoing.put_nowait(None)

    def lose(self) -> None:
        """What was sent and not written is nobody's any more."""
        self.is_lost = True
        self.unblock()

    def unblock(self) -> None:
        """Lets a thread go on that waits for room."""
        self._room.release()


class Link:
    """Keeps a worker joined: `run` until it is refused, or `leave`."""

    def __init__(
        self,
        *,
        router: str,
        name: str,
        hello: fleet_pb2.FromWorker,
        inbox: Inbox[Arrival],
        tls: Path | None = None,
        on_joined: Callable[[bool], None] | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """`on_joined` hears whether the worker is in the fleet, each time that this changes."""
        self.router, self.name = router, name
        self._on_joined, self._is_joined = on_joined or (lambda is_joined: None), False
        self._hello, self._inbox = hello, inbox
        self._tls = None if tls is None else TlsFolder(tls)
        self._clock, self._chance = clock or SystemClock(), chance or random.Random()
        self._delays_s = delays_s(self._chance)
        self._stream: Stream | None = None
        self._is_leaving = False

    async def run(self) -> None:
        """Dials until `leave`; InvalidArgument with the router's reason where it does not want this worker."""
        self._check_tls()
        while not self._is_leaving:
            reason = "it ended the stream"
            try:
                await self._join()
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
                if error.code() in _REFUSALS:
                    raise InvalidArgument(f"the router at {self.router} refused {self.name}: {reason}") from error
            except InvalidRequest as error:  # certificates that are being renewed
                reason = error.message
            if not self._is_leaving:
                delay_s = next(self._delays_s)
                logger.warning("no stream to the router at %s: %s; next try in %.1f s", self.router, reason, delay_s)
                await self._clock.sleep(delay_s)

    def leave(self) -> bool:
        """Ends the stream behind what was sent; whether there is one to wait for, after whose end `run` returns."""
        self._is_leaving = True
        if self._stream is not None:
            self._stream.end()
        return self._stream is not None

    def unblock(self) -> None:
        """Lets the thread go on that waits to send."""
        if self._stream is not None:
            self._stream.unblock()

    async def _join(self) -> None:
        """The life of one stream."""
        async with self._channel() as channel:
            # Messages are unpacked here and not by gRPC, so that one that makes no sense is one message lost.
            call = channel.stream_stream(_JOIN, fleet_pb2.FromWorker.SerializeToString, bytes)()
            stream = self._stream = Stream()
            writing = asyncio.create_task(self._write(stream, call))
            try:
                await self._read(stream, call)
            finally:
                self._stream = None
                stream.lose()
                self._turn(is_joined=False)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)  # reading has said why the stream ended
                await self._inbox.put(Arrival(stream=stream, message=None))

    async def _write(self, stream: Stream, call: _Call) -> None:
        await call.write(self._hello)
        await stream.carry(call)

    async def _read(self, stream: Stream, call: _Call) -> None:
        while isinstance(content := await call.read(), bytes):
            self._delays_s = delays_s(self._chance)  # we were let in
            try:
                message = fleet_pb2.ToWorker.FromString(content)
            except DecodeError as error:
                logger.warning("dropped a message of %d bytes from the router: %s", len(content), error)
                continue
            if message.HasField("welcome"):
                logger.info("%s joined router %s at %s", self.name, message.welcome.router, self.router)
                self._turn(is_joined=True)
            else:
                await self._inbox.put(Arrival(stream=stream, message=message))

    def _turn(self, *, is_joined: bool) -> None:
        if is_joined != self._is_joined:
            self._is_joined = is_joined
            self._on_joined(is_joined)

    def _check_tls(self) -> None:
        """What is wrong from the start is wrong for good."""
        try:
            if self._tls is not None:
                self._tls.read()
        except InvalidRequest as error:
            raise ConfigError(f"security.tls: {error.message}") from error

    def _channel(self) -> grpc.aio.Channel:
        """With certificates as they are now, for each dialling is a new connection."""
        if self._tls is None:
            return grpc.aio.insecure_channel(self.router, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(self.router, self._tls.read().for_channel(), options=CHANNEL_OPTIONS)


def delays_s(chance: random.Random) -> Iterator[float]:
    """Seconds between tries: doubling, and each somewhere between half of it and all, so that workers that lost the
    same router do not come back all at once.
    """
    delay_s = _FIRST_DELAY_S
    while True:
        yield delay_s * chance.uniform(0.5, 1.0)
        delay_s = min(2.0 * delay_s, _LAST_DELAY_S)
