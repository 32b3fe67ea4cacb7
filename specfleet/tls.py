"""Certificates in a folder: tls.crt, tls.key and ca.crt, as cert-manager mounts them; read again when renewed."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specfleet.errors import InvalidRequest

if TYPE_CHECKING:
    import grpc

__all__ = ["AUTHORITIES", "CHAIN", "KEY", "ROLES", "Certificates", "TlsFolder", "role_uri"]

CHAIN, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
ROLES = ("router", "verifier", "drafter", "client", "admin")
_FILES = (CHAIN, KEY, AUTHORITIES)
_TRIES = 3


def role_uri(role: str) -> str:
    """The one URI among a certificate's alternative names, which says what its holder may do."""
    return f"spiffe://specfleet/{role}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """All in PEM. A client that shows none of its own has an empty chain and key."""

    chain: bytes
    key: bytes
    authorities: bytes

    def for_channel(self) -> grpc.ChannelCredentials:
        """For the side that dials: trusts the authorities, and shows the chain."""
        import grpc

        return grpc.ssl_channel_credentials(self.authorities, self.key or None, self.chain or None)


class TlsFolder:
    """One such folder, and what of it was read last."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._stamp: tuple[object, ...] = ()

    @property
    def has_changed(self) -> bool:
        """Whether a file is another one than at the last `read`, also if that failed."""
        return self._stamp_now() != self._stamp

    def read(self) -> Certificates:
        """All files, of the same moment; InvalidRequest where they do not make sense together."""
        for _ in range(_TRIES):
            self._stamp = self._stamp_now()
            certificates = self._read()
            fault = self._fault(certificates)
            if self._stamp_now() == self._stamp:  # else they were renewed while we read
                break
        if fault:
            raise InvalidRequest(f"{self.folder}: {fault}")
        return certificates

    def _read(self) -> Certificates:
        found = {name: self._content(name) for name in _FILES}
        if not found[AUTHORITIES] or bool(found[CHAIN]) != bool(found[KEY]):
            missing = ", ".join(name for name, content in found.items() if not content)
            raise InvalidRequest(
                f"{self.folder} has no {missing}; a TLS folder holds {CHAIN}, {KEY} and {AUTHORITIES}, or for a client "
                f"that shows no certificate {AUTHORITIES} alone"
            )
        return Certificates(chain=found[CHAIN], key=found[KEY], authorities=found[AUTHORITIES])

    def _content(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise InvalidRequest(f"{self.folder / name} cannot be read: {error.strerror}") from None

    def _fault(self, certificates: Certificates) -> str:
        """What OpenSSL finds wrong, for gRPC would only fail later, and without a reason."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=certificates.authorities.decode("ascii", errors="replace"))
        except ssl.SSLError:
            return f"{AUTHORITIES} holds no certificates in PEM"
        if certificates.chain:
            try:
                context.load_cert_chain(self.folder / CHAIN, self.folder / KEY)
            except (ssl.SSLError, OSError) as error:
                reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
                return f"{CHAIN} and {KEY} are no certificate in PEM with its key ({reason})"
        return ""

    def _stamp_now(self) -> tuple[object, ...]:
        return tuple(self._stamp_of(self.folder / name) for name in _FILES)

    @staticmethod
    def _stamp_of(file: Path) -> object:
        try:
            status = file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
