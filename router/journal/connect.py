"""From the settings of a store to a client of it: one server, Sentinels before several, or a Cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from contracts.config import StoreConfig
from contracts.errors import ConfigError, shown

__all__ = ["WAIT_S", "Client", "connect", "disconnect", "without_password"]

Client: TypeAlias = "Redis | RedisCluster"

_PORT, _SENTINEL_PORT = 6379, 26379
_CONNECT_S = 1.0
WAIT_S = 2.0
"""For disks and replicas, where they are waited for."""


def connect(config: StoreConfig) -> Client:
    """A client that has not connected yet. What is wrong in the settings themselves is a ConfigError."""
    settings = _settings(config)
    kind, _, rest = config.url.partition("://")
    if kind.endswith("+sentinel"):
        return _behind_sentinels(rest, settings, config.sentinel_password_file)
    if kind.endswith("+cluster"):
        return _cluster(rest, settings)
    client: Redis = Redis.from_url(config.url, **settings)
    return client


async def disconnect(client: Client) -> None:
    """Closes it, and the Sentinels that it asks, which it does not count as its own."""
    await client.aclose()
    if not isinstance(client, RedisCluster) and isinstance(pool := client.connection_pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def without_password(url: str) -> str:
    """For messages: a URL that gives nothing away."""
    kind, separator, rest = url.partition("://")
    return f"{kind}{separator}{rest.rpartition('@')[2]}" if separator else url


def _settings(config: StoreConfig) -> dict[str, Any]:
    """One retry, at once: a connection of the pool may be one to a server that was started again since. Longer
    patience is for those who know what they wait for.
    """
    waits = config.journal == "fsynced" or config.num_replicas > 0
    answer_s = max(config.lease_s / 3.0, 0.1)
    settings: dict[str, Any] = {
        "socket_timeout": max(answer_s, 1.5 * WAIT_S if waits else 0.0),
        "socket_connect_timeout": min(answer_s, _CONNECT_S),
        "protocol": 2,
        "retry": Retry(NoBackoff(), 1),
    }
    if config.password_file is not None:
        settings["password"] = _read("password_file", config.password_file)
    if config.url.startswith("rediss"):
        files = {"ca_file": "ssl_ca_certs", "cert_file": "ssl_certfile", "key_file": "ssl_keyfile"}
        for key, name in files.items():
            if (file := getattr(config, key)) is not None:
                _read(key, file)
                settings[name] = file
        if not config.url.startswith("rediss://"):
            settings["ssl"] = True
    return settings


def _behind_sentinels(rest: str, settings: dict[str, Any], password_file: str | None) -> Redis:
    user, servers, path = _parts(rest)
    name, _, database = path.partition("/")
    sentinels = [_host_and_port(server, _SENTINEL_PORT) for server in servers]
    # The Sentinels are asked with the same certificates, but not with the store's password.
    to_sentinels = {key: value for key, value in settings.items() if key != "password"}
    if password_file is not None:
        to_sentinels["password"] = _read("sentinel_password_file", password_file)
    of_store = {**settings, **user, "db": int(database or 0)}
    client: Redis = Sentinel(  # type: ignore[no-untyped-call]  # redis-py says nothing of its arguments
        sentinels, sentinel_kwargs=to_sentinels, **of_store
    ).master_for(name)
    return client


def _cluster(rest: str, settings: dict[str, Any]) -> RedisCluster:
    user, servers, _ = _parts(rest)
    nodes = [ClusterNode(*_host_and_port(server, _PORT)) for server in servers]
    of_store = {**settings, **user}
    return RedisCluster(startup_nodes=nodes, **of_store)


def _parts(rest: str) -> tuple[dict[str, str], list[str], str]:
    """Who, the servers, and what follows behind a slash."""
    authority, _, path = rest.partition("/")
    credentials, _, servers = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    given = {"username": unquote(user), "password": unquote(password)}
    return {key: value for key, value in given.items() if value}, servers.split(","), path


def _host_and_port(server: str, port: int) -> tuple[str, int]:
    try:
        found = urlsplit(f"//{server}")
        return found.hostname or "", found.port or port
    except ValueError:
        raise ConfigError(f"store.url names {shown(server)}; it must be a host, or host:port") from None


def _read(key: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"store.{key} is {shown(file)}, which cannot be read: {error}; it must be a file") from error
