"""What a supervisor needs of the router: where it will be, and who has joined it."""

from __future__ import annotations

import socket

from contracts.config import RouterConfig
from contracts.errors import AlreadyExists, ConfigError
from specfleet.admin import Admin
from specfleet.errors import SpecfleetClientError

__all__ = ["joined", "with_ports"]

_AWAY = "away"  # how the router calls a verifier that it has not got
_OUT = "quarantined"  # and a drafter that it keeps out


def with_ports(config: RouterConfig) -> RouterConfig:
    """The same with ports that are free just now; refused where one is not. A port of 0 becomes one that stays the
    same when the router is started again, so that workers find it.
    """
    ports = {key: _free_port(config.host, getattr(config, key), key) for key in ("grpc_port", "http_port")}
    return config.model_copy(update=ports)


def joined(router: Admin) -> set[str] | None:
    """The names of the workers that are in the fleet; None when the router does not answer."""
    try:
        status = router.status()
    except SpecfleetClientError:
        return None
    verifier = {status.verifier.name} if status.verifier.state != _AWAY else set()
    return {drafter.name for drafter in status.drafters if drafter.state != _OUT} | verifier


def _free_port(host: str, port: int, key: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as taken:
            return int(taken.getsockname()[1])
    except OSError as error:
        if isinstance(error, socket.gaierror) or port == 0:
            raise ConfigError(f"router.host is {host!r}: {error}; it must be an address of this machine") from error
        raise AlreadyExists(
            f"router.{key} is {port} and cannot be had at {host}: {error}; end what listens there "
            "(`python -m cluster down` if it is a fleet), or choose another port, 0 for any"
        ) from error
