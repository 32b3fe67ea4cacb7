"""The options that all commands share, and what they open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from specfleet.channel import DEFAULT_ADDRESS, tls_credentials
from specfleet.errors import InvalidRequest

if TYPE_CHECKING:
    import grpc

__all__ = ["DEFAULT_ADDRESS", "Address", "ApiKey", "Fleet", "TlsCa", "read_text"]

Address = Annotated[str, typer.Option("--address", envvar="SPECFLEET_ADDRESS", help="Where the fleet is: host:port.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="SPECFLEET_API_KEY", show_envvar=True, help="Your key, if asked for.")
]
TlsCa = Annotated[
    Path | None, typer.Option("--tls-ca", help="Use TLS, and trust the certificate authorities in this PEM file.")
]


class _Arguments(TypedDict):
    address: str
    api_key: str | None
    credentials: grpc.ChannelCredentials | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which fleet a command talks to, and as whom; `Client(**Fleet(...).arguments())` opens it."""

    address: str
    api_key: str | None
    tls_ca: Path | None

    def arguments(self) -> _Arguments:
        credentials = None if self.tls_ca is None else tls_credentials(_read(self.tls_ca, "--tls-ca"))
        return {"address": self.address, "api_key": self.api_key, "credentials": credentials}


def read_text(file: Path, option: str) -> str:
    """A text file that an option names."""
    try:
        return _read(file, option).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{option}: {file} is not UTF-8 text, from byte {error.start} on") from None


def _read(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{option}: {file} cannot be read: {error.strerror}") from None
