"""A client's requests that the fleet may be at work for: who leaves one before its end cancels it, once."""

from __future__ import annotations

import asyncio
import time

from specfleet.delivery import Delivery
from specfleet.errors import SpecfleetClientError
from specfleet.transport import AsyncTransport, Transport
from specfleet.v1 import inference_pb2 as pb

__all__ = ["AsyncOpenRequests", "OpenRequests"]

_TIMEOUT_S = 2.0


class _Open:
    """What both kinds of client remember."""

    def __init__(self) -> None:
        self.is_closed = False
        self._open: set[Delivery] = set()

    def begin(self, delivery: Delivery) -> None:
        self._open.add(delivery)

    def end(self, delivery: Delivery) -> None:
        self._open.discard(delivery)

    def has(self, delivery: Delivery) -> bool:
        """Whether it has begun, and neither ended nor was left."""
        return delivery in self._open


class OpenRequests(_Open):
    """For `Client`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    def leave(self, delivery: Delivery, timeout_s: float = _TIMEOUT_S) -> None:
        """Cancels it, unless it has ended or was left before."""
        if delivery.is_complete or not self.has(delivery):
            return
        self._open.discard(delivery)
        try:
            self._transport.cancel(pb.CancelRequest(request_id=delivery.request_id), timeout_s)
        except SpecfleetClientError:
            return  # gone already, or out of reach: then the fleet gives it up by itself

    def close(self) -> None:
        """Leaves all, and takes no longer than for one."""
        self.is_closed = True
        ends_s = time.monotonic() + _TIMEOUT_S
        for delivery in self._open.copy():
            self.leave(delivery, max(ends_s - time.monotonic(), 0.0))


class AsyncOpenRequests(_Open):
    """For `AsyncClient`. Cancels in tasks of their own: whoever leaves may be cancelled while it waits for that."""

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__()
        self._transport = transport
        self._cancelling: set[asyncio.Task[None]] = set()

    async def leave(self, delivery: Delivery) -> None:
        """Cancels it, unless it has ended or was left before."""
        if self.has(delivery) and not delivery.is_complete:
            await asyncio.shield(self._cancel(delivery))

    async def close(self) -> None:
        """Leaves all, and waits for those that were left before."""
        self.is_closed = True
        for delivery in self._open.copy():
            if not delivery.is_complete:
                self._cancel(delivery)
        if self._cancelling:
            await asyncio.wait(self._cancelling)

    def _cancel(self, delivery: Delivery) -> asyncio.Task[None]:
        self._open.discard(delivery)
        task = asyncio.create_task(self._tell(delivery.request_id))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)
        return task

    async def _tell(self, request_id: str) -> None:
        try:
            await self._transport.cancel(pb.CancelRequest(request_id=request_id), _TIMEOUT_S)
        except SpecfleetClientError:
            return  # gone already, or out of reach: then the fleet gives it up by itself
