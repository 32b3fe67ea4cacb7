"""A gRPC channel that goes on with new certificates when they are renewed.

gRPC reads a client's certificates once, when a channel is made; so a channel that lives longer than they do could not
connect again. This stands before a channel, and takes another one for the calls that begin after a renewal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from specfleet.errors import InvalidRequest
from specfleet.tls import Certificates, TlsFolder

__all__ = ["RenewedChannel"]

Channel = TypeVar("Channel")


class RenewedChannel(Generic[Channel]):
    """What generated stubs need of a channel. For one kind of channel or the other, as `open_channel` makes them."""

    def __init__(self, folder: TlsFolder, open_channel: Callable[[Certificates], Channel]) -> None:
        self._folder, self._open = folder, open_channel
        self._newest = open_channel(folder.read())
        self._replaced: list[Channel] = []
        self._is_closed = False

    def to_close(self) -> tuple[Channel, ...]:
        """All that are open, for whoever closes this one; from now on no other is opened."""
        self._is_closed = True
        return (self._newest, *self._replaced)

    def unary_unary(self, *how: Any, **settings: Any) -> Callable[..., Any]:
        return self._calls("unary_unary", how, settings)

    def unary_stream(self, *how: Any, **settings: Any) -> Callable[..., Any]:
        return self._calls("unary_stream", how, settings)

    def _calls(self, kind: str, how: tuple[Any, ...], settings: dict[str, Any]) -> Callable[..., Any]:
        # Made while the channel is open: to call one of a closed channel is an error, to make one ends the process.
        channel, method = self._newest, getattr(self._newest, kind)(*how, **settings)

        def call(request: object, **options: Any) -> Any:
            nonlocal channel, method
            self._renew()
            if channel is not self._newest:
                channel, method = self._newest, getattr(self._newest, kind)(*how, **settings)
            return method(request, **options)

        return call

    def _renew(self) -> None:
        """Calls that are under way stay on their channel: a live connection does not mind that a certificate is old."""
        if self._folder.has_changed and not self._is_closed:
            try:
                certificates = self._folder.read()
            except InvalidRequest:
                return  # half written, or wrong: the old ones are the best there is
            self._replaced.append(self._newest)
            self._newest = self._open(certificates)
