"""Messages over gRPC, for code that blocks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc

from specfleet.channel import Tls, check_address, metadata_for, options_for
from specfleet.errors import Cancelled
from specfleet.grpc_errors import client_error
from specfleet.renewed_channel import RenewedChannel
from specfleet.tls import TlsFolder
from specfleet.trace_context import call_span
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc

__all__ = ["Connection", "GrpcTransport"]


class Connection:
    """One channel to one address. May be used by many threads at once."""

    def __init__(self, address: str, *, api_key: str | None, tls: Tls) -> None:
        self.address = check_address(address)
        options = options_for(address)
        self._metadata = metadata_for(api_key)
        self.channel: Any  # one of gRPC's, or what stands before several
        if tls is None:
            self.channel = grpc.insecure_channel(address, options=options)
        else:
            self.channel = RenewedChannel(
                TlsFolder(tls), lambda of: grpc.secure_channel(address, of.for_channel(), options=options)
            )

    def answer(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:
        """One answer to one request."""
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise client_error(error, self.address) from None
        except ValueError:  # what gRPC says to calls on a closed channel
            raise Cancelled("the client is closed; open another") from None

    def stream(
        self, method: Callable[..., Any], request: object, timeout_s: float | None
    ) -> Generator[Any, None, None]:
        """Many answers to one request; closing the generator ends the call."""
        span = call_span(request)
        try:
            call: Any = method(request, timeout=timeout_s, metadata=(*self._metadata, *span.headers))
        except ValueError:
            span.end()
            raise Cancelled("the client is closed; open another") from None
        try:
            answers: Iterator[Any] = call
            yield from answers
        except grpc.RpcError as error:
            raise client_error(error, self.address) from None
        finally:
            call.cancel()
            span.end()

    def close(self) -> None:
        for channel in self.channel.to_close() if isinstance(self.channel, RenewedChannel) else [self.channel]:
            channel.close()


class GrpcTransport:
    """The default `Transport`."""

    def __init__(self, address: str, *, api_key: str | None = None, tls: Tls = None) -> None:
        self._connection = Connection(address, api_key=api_key, tls=tls)
        self._stub = inference_pb2_grpc.InferenceStub(self._connection.channel)

    def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> Generator[pb.GenerateResponse, None, None]:
        return self._connection.stream(self._stub.Generate, request, timeout_s)

    def resume(self, request: pb.ResumeRequest, timeout_s: float | None) -> Generator[pb.GenerateResponse, None, None]:
        return self._connection.stream(self._stub.Resume, request, timeout_s)

    def cancel(self, request: pb.CancelRequest, timeout_s: float | None) -> pb.CancelResponse:
        answer: pb.CancelResponse = self._connection.answer(self._stub.Cancel, request, timeout_s)
        return answer

    def count_tokens(self, request: pb.CountTokensRequest, timeout_s: float | None) -> pb.CountTokensResponse:
        answer: pb.CountTokensResponse = self._connection.answer(self._stub.CountTokens, request, timeout_s)
        return answer

    def list_models(self, request: pb.ListModelsRequest, timeout_s: float | None) -> pb.ListModelsResponse:
        answer: pb.ListModelsResponse = self._connection.answer(self._stub.ListModels, request, timeout_s)
        return answer

    def close(self) -> None:
        self._connection.close()
