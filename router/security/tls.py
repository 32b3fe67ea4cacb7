"""The router's own certificates: for gRPC, where both sides show one, and for HTTP, where only the router does."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import grpc

from contracts.errors import ConfigError
from specfleet.errors import InvalidRequest
from specfleet.tls import CHAIN, KEY, Certificates, TlsFolder

__all__ = ["grpc_credentials", "http_context", "keep_http_renewed"]

_log = logging.getLogger(__name__)
_EVERY_S = 1.0


def grpc_credentials(folder: Path) -> grpc.ServerCredentials:
    """For a server that lets nobody in without a certificate of its authority. Files that were renewed are taken at
    the next connection.
    """
    files = TlsFolder(folder)
    first = _configuration(_read(files))

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        if not files.has_changed:
            return None
        try:
            found = _configuration(_read(files))
        except ConfigError as error:
            _log.warning("the certificates stay as they were: %s", error.message)
            return None
        _log.info("renewed certificates from %s", folder)
        return found

    # The stubs do not know that None means: as before.
    return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=True)  # type: ignore[arg-type]


def http_context(folder: Path) -> ssl.SSLContext:
    """For a server whose clients show keys instead of certificates."""
    _read(TlsFolder(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / CHAIN, folder / KEY)
    return context


async def keep_http_renewed(context: ssl.SSLContext, folder: Path) -> None:
    """Until cancelled: what is loaded into a context holds for the connections that begin after that."""
    files = TlsFolder(folder)
    _read(files)
    while True:
        await asyncio.sleep(_EVERY_S)
        if files.has_changed:
            try:
                _read(files)
                context.load_cert_chain(folder / CHAIN, folder / KEY)
            except (ConfigError, OSError) as error:
                _log.warning("the certificates of HTTP stay as they were: %s", error)


def _read(files: TlsFolder) -> Certificates:
    try:
        found = files.read()
    except InvalidRequest as error:
        raise ConfigError(f"security.tls: {error.message}") from error
    if not found.chain:
        raise ConfigError(f"security.tls: {files.folder} has no {CHAIN} and {KEY}; a router shows a certificate")
    return found


def _configuration(found: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], root_certificates=found.authorities)
