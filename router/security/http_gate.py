"""The gate before every HTTP route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from contracts.errors import SpecfleetError
from router.http.errors import error_response
from router.security.caller import enter
from router.security.gate import INFERENCE, METRICS, Gate

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HttpGate"]

_OPEN = frozenset({"/healthz", "/readyz"})  # asked by those who keep processes alive, and telling nothing else


class HttpGate:
    """Refuses before a route is looked up, so that none of them can forget to ask."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            service = METRICS if scope["path"] == "/metrics" else INFERENCE
            try:
                enter(self._gate.enter_http(service, Headers(scope=scope).get("authorization", "")))
            except SpecfleetError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
