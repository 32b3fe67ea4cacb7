"""What both kinds of gRPC channel are opened with."""

from __future__ import annotations

import os
import re

from specfleet.errors import InvalidRequest

__all__ = ["DEFAULT_ADDRESS", "Tls", "check_address", "metadata_for", "options_for"]

DEFAULT_ADDRESS = "127.0.0.1:50051"

Tls = str | os.PathLike[str] | None
"""A folder with tls.crt, tls.key and ca.crt (`specfleet.tls`); None: no encryption, for a fleet on this machine."""

_MAX_MESSAGE = 64 * 2**20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    # Without pings a stream whose peer vanished would wait for ever; without the last limit, one whose peer stands
    # still would wait for a minute.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # A router that restarts is back in seconds; gRPC's own pauses between attempts to connect grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # no pause, but what one attempt may take, with TLS and from far away
    # Two clients of one process share no connection, so that closing one leaves the other alone.
    ("grpc.use_local_subchannel_pool", 1),
)
_THIS_MACHINE = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


def options_for(address: str) -> tuple[tuple[str, int], ...]:
    """A proxy of the environment (https_proxy, http_proxy) may lead to other machines; none leads back to this one."""
    return (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if _THIS_MACHINE.fullmatch(address) else _OPTIONS


def check_address(address: object) -> str:
    """The address as given. gRPC itself would take anything, and complain about a host name that makes no sense."""
    if not isinstance(address, str) or re.fullmatch(r"\S+", address) is None:
        raise InvalidRequest(f"the address is {address!r}; give host:port, as in {DEFAULT_ADDRESS}")
    if re.match(r"https?://", address):
        raise InvalidRequest(f"the address is {address!r}; give host:port without a scheme, as in {DEFAULT_ADDRESS}")
    return address


def metadata_for(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """A key travels as it does over HTTP."""
    if api_key and re.fullmatch(r"[!-~]{1,256}", api_key) is None:
        raise InvalidRequest(
            f"the API key has {len(api_key)} characters, or some that no key has; it must be as `specfleet keys add` "
            "showed it"
        )
    return () if not api_key else (("authorization", f"Bearer {api_key}"),)
