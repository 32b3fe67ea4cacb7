"""Bodies are read whole before anyone looks at them, up to a size and within a time."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import DeadlineExceeded, InvalidArgument, SpecfleetError
from router.http.errors import error_response
from router.http.limits import HttpLimits

__all__ = ["WholeBody"]


class WholeBody:
    """ASGI middleware. Behind it the first message is the whole body, and the next that the client has gone."""

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except SpecfleetError as error:
            status = 408 if isinstance(error, DeadlineExceeded) else None  # it is the sender who was late
            await error_response(error, status)(scope, receive, send)
            return
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """None where the client has gone."""
        most = self._limits.max_body
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > most:  # digits only, or h11 refuses it
                raise InvalidArgument(f"the body has {int(value)} bytes; at most {most} are read")
        parts: list[bytes] = []
        size, is_whole = 0, False
        try:
            async with asyncio.timeout(self._limits.body_s):
                while not is_whole:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    is_whole = not message.get("more_body", False)
                    if size > most:
                        raise InvalidArgument(f"the body has over {most} bytes; no more are read")
        except TimeoutError:
            raise DeadlineExceeded(
                f"{size} bytes of the body came in {self._limits.body_s:.0f} s and it is not whole; send it faster"
            ) from None
        return b"".join(parts)
