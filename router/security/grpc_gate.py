"""The gate before every gRPC method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from contracts.errors import SpecfleetError
from router.grpc_errors import abort
from router.security.caller import enter
from router.security.gate import Gate
from specfleet.tls import ROLES, role_uri

__all__ = ["GrpcGate"]

_ROLE_OF = {role_uri(role).encode(): role for role in ROLES}
_STRANGER = ""  # a certificate of our authority that says no role we know


class GrpcGate(grpc.aio.ServerInterceptor):
    """Refuses before a method is reached, so that none of them can forget to ask."""

    def __init__(self, gate: Gate, *, open_services: Iterable[str]) -> None:
        self._gate, self._open = gate, frozenset(open_services)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        service = details.method.lstrip("/").partition("/")[0]
        if handler is None or service in self._open:
            return handler
        return self._guarded(handler, service)

    def _guarded(self, handler: Any, service: str) -> Any:
        """The same handler behind the gate. The house has these three kinds of method."""
        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(
                self._answers(handler.unary_unary, service), handler.request_deserializer, handler.response_serializer
            )
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streams(handler.stream_stream, service), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(
            self._streams(handler.unary_stream, service), handler.request_deserializer, handler.response_serializer
        )

    def _answers(self, method: Callable[[Any, Any], Awaitable[Any]], service: str) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: Any) -> Any:
            await self._enter(service, context)
            return await method(request, context)

        return guarded

    def _streams(self, method: Callable[[Any, Any], AsyncIterator[Any]], service: str) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._enter(service, context)
            async for answer in method(request, context):
                yield answer

        return guarded

    async def _enter(self, service: str, context: Any) -> None:
        metadata = dict(context.invocation_metadata() or ())
        try:
            auth = context.auth_context()
            who = self._gate.enter_grpc(service, _role(auth), metadata.get("authorization", ""))
            enter(replace(who, certificate=_names(auth)))
        except SpecfleetError as error:
            await abort(context, error)


def _role(auth: dict[str, list[bytes]]) -> str | None:
    """What the certificate says that its holder is; None without TLS. gRPC tells a SPIFFE id only where a certificate
    has exactly one URI, so that none can say two things.
    """
    if auth.get("transport_security_type") != [b"ssl"]:
        return None
    return _ROLE_OF.get(b"".join(auth.get("peer_spiffe_id", [])), _STRANGER)


def _names(auth: dict[str, list[bytes]]) -> str:
    """Whose certificate it is, as it says itself."""
    names = (*auth.get("x509_common_name", []), *sorted(auth.get("x509_subject_alternative_name", [])))
    return b"\n".join(names).decode(errors="replace")
