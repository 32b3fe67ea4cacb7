"""What a fleet's command needs of its router: where it will be, and whether it is there."""

from __future__ import annotations

import socket

from contracts.config import RouterConfig
from contracts.errors import AlreadyExists, ConfigError
from specfleet.admin import Admin
from specfleet.errors import SpecfleetClientError

__all__ = ["is_up", "with_ports"]


def with_ports(config: RouterConfig) -> RouterConfig:
    """The same with ports that are free just now; refused where one is not. A port of 0 becomes one that stays the
    same when the router is started again, so that workers find it.
    """
    ports = {key: _free_port(config.host, getattr(config, key), key) for key in ("grpc_port", "http_port")}
    return config.model_copy(update=ports)


def is_up(router: Admin) -> bool:
    """Whether it is there."""
    try:
        router.status()
    except SpecfleetClientError:
        return False
    return True


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
