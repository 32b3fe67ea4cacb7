"""The options that all commands share, and what they open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from specfleet.channel import DEFAULT_ADDRESS
from specfleet.errors import InvalidRequest

__all__ = ["DEFAULT_ADDRESS", "Address", "ApiKeyFile", "Fleet", "TlsOption", "decoded", "read_text"]

API_KEY_VARIABLE = "SPECFLEET_API_KEY"

Address = Annotated[str, typer.Option("--address", envvar="SPECFLEET_ADDRESS", help="Where the fleet is: host:port.")]
# No option takes a key itself: whoever lists the processes of a machine reads their arguments.
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file", envvar="SPECFLEET_API_KEY_FILE", help="A file with your key; or have it in SPECFLEET_API_KEY."
    ),
]
TlsOption = Annotated[
    Path | None,
    typer.Option("--tls", envvar="SPECFLEET_TLS", help="Use TLS, with tls.crt, tls.key and ca.crt of this folder."),
]


class _Arguments(TypedDict):
    address: str
    api_key: str | None
    tls: Path | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which fleet a command talks to, and as whom; `Client(**Fleet(...).arguments())` opens it."""

    address: str
    api_key_file: Path | None
    tls: Path | None

    def arguments(self) -> _Arguments:
        return {"address": self.address, "api_key": self._api_key(), "tls": self.tls}

    def _api_key(self) -> str | None:
        if self.api_key_file is not None:
            return read_text(self.api_key_file, "--api-key-file").strip()
        return os.environ.get(API_KEY_VARIABLE)


def read_text(file: Path, option: str) -> str:
    """A text file that an option names."""
    return decoded(_read(file, option), f"{option}: {file}")


def decoded(content: bytes, source: str) -> str:
    """The text that came from there."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{source} is not UTF-8 text, from byte {error.start} on") from None


def _read(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{option}: {file} cannot be read: {error.strerror}") from None
