"""One HTTP connection with an end to every wait: for headers, for a reader that takes nothing, for a peer that is gone.

uvicorn bounds how long a connection may rest between two requests, and nothing else: one on which headers never end, or
whose client stops reading, would be held for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from contracts.errors import DeadlineExceeded
from router.http.errors import error_body
from router.http.limits import HttpLimits

__all__ = ["BoundedConnection"]

_PINGS = 3


def _too_slow(limit_s: float) -> bytes:
    error = DeadlineExceeded(f"the head of a request did not end within {limit_s:g} s; send it at once")
    body = json.dumps(error_body(error)).encode()
    head = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


class BoundedConnection(H11Protocol):
    """See the module. h11 itself bounds the size of headers."""

    def __init__(self, *, limits: HttpLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._awaits_request: asyncio.TimerHandle | None = None
        self._awaits_reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _watch_peer(transport.get_extra_info("socket"), self._limits.stall_s)
        self._watch_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._awaits_reader = self.loop.call_later(self._limits.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._awaits_reader is not None:
            self._awaits_reader.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_awaiting_request()
        super().connection_lost(exc)  # which resumes writing

    def _watch_request(self) -> None:
        """Bytes that trickle in buy no time: the timer runs from the moment in which there was no request."""
        if self.transport.is_closing() or self._is_busy:
            self._stop_awaiting_request()
        elif self._awaits_request is None:
            self._awaits_request = self.loop.call_later(self._limits.head_s, self._give_up)

    @property
    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request, whatever uvicorn's types say
        return cycle is not None and not cycle.response_complete

    def _stop_awaiting_request(self) -> None:
        if self._awaits_request is not None:
            self._awaits_request.cancel()
            self._awaits_request = None

    def _give_up(self) -> None:
        """Only half a head is answered: on a connection that rests the client might take the answer for that to the
        request which it is just sending."""
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(_too_slow(self._limits.head_s))
        self.transport.close()


def _watch_peer(connection: socket.socket, silent_s: float) -> None:
    """A machine that vanished confirms nothing; TCP alone would believe in it for a quarter of an hour."""
    ping_s = max(round(silent_s / (1 + _PINGS)), 1)
    wishes = (("TCP_KEEPIDLE", ping_s), ("TCP_KEEPINTVL", ping_s), ("TCP_KEEPCNT", _PINGS))
    with contextlib.suppress(OSError):  # it is gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (*wishes, ("TCP_USER_TIMEOUT", round(1e3 * silent_s))):
            if hasattr(socket, name):  # not every system has all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
