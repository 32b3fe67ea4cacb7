"""The journal in Redis or Valkey: a stream for each request, and beside them the lease and what was learned.

All keys of a fleet share a hash tag and so a slot of a Cluster, because each write must look at the lease in the same
step. A fleet has one router that writes a few hundred small records a second, which one node carries with ease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from contracts.config import StoreConfig
from contracts.errors import ConfigError
from router.journal.connect import WAIT_S, Client, connect, disconnect, without_password
from router.journal.journal import Entry, Lease, LeaseLost, MemoryLimits, StoreLost
from router.journal.scripts import ACCEPT, APPEND, FENCED, KEEP, KEEP_MEMORY, MEMORY, PROBE, RELEASE, RENEW, TAKE
from router.request_key import RequestKey

__all__ = ["RedisJournal"]

_log = logging.getLogger(__name__)
_WAIT_MS = round(1e3 * WAIT_S)
_MOST_SAID = 160  # of an error of redis-py's, which may go on with all its settings
_FAILURES = (RedisError, RedisClusterException, OSError)
_NOT_ALLOWED = (AuthenticationError, AuthorizationError, NoPermissionError)


class RedisJournal:
    """A `Journal`. Every answer it waits for has a time limit."""

    def __init__(self, config: StoreConfig, limits: MemoryLimits | None = None) -> None:
        self._config, self._limits = config, limits or MemoryLimits()
        self._url = without_password(config.url)
        self._client: Client = connect(config)
        tag = f"{{specfleet:{config.namespace}}}"
        self._lease, self._fence = f"{tag}:lease", f"{tag}:fence"
        self._unfinished, self._kept = f"{tag}:unfinished", f"{tag}:learned"
        self._memories, self._ages = f"{tag}:memories", f"{tag}:memories:ages"
        self._request, self._probe = f"{tag}:request:", f"{tag}:probe"

    async def check(self) -> None:
        try:
            await self._client.ping()
            await self._look_at_memory()
            if self._waits:
                await self._wait()
        except _FAILURES as error:
            raise self._unfit(error) from error

    # The lease

    async def lease(self) -> Lease | None:
        owner, beat = await self._do("HMGET", self._lease, "owner", "beat")
        return None if owner is None else Lease(owner.decode(), int(beat))

    async def take(self, seen: Lease | None, holder: str) -> Lease | None:
        owner, beat = (seen.owner, seen.beat) if seen is not None else ("", 0)
        taken = await self._run(TAKE, [self._lease, self._fence], [owner, beat, holder])
        return None if taken is None else Lease(taken.decode(), 0)

    async def renew(self, owner: str) -> Lease | None:
        beat = await self._run(RENEW, [self._lease], [owner])
        return None if beat is None else Lease(owner, beat)

    async def release(self, owner: str) -> None:
        await self._run(RELEASE, [self._lease], [owner])

    # Requests

    async def accept(self, owner: str, request: RequestKey, record: bytes) -> bool:
        keys = [self._lease, self._unfinished, self._stream(request)]
        return bool(await self._run(ACCEPT, keys, [owner, request.text, record], is_durable=self._waits))

    async def probe(self, owner: str) -> None:
        await self._run(PROBE, [self._lease, self._probe], [owner], is_durable=self._waits)

    async def append(self, owner: str, entries: Sequence[Entry]) -> list[RequestKey]:
        keys: list[str] = [self._lease, self._unfinished]
        values: list[str | bytes | int] = [owner, round(1e3 * self._config.keep_s)]
        for entry in entries:
            keys.append(self._stream(entry.request))
            values += [entry.request.text, entry.num_before, len(entry.records), int(entry.has_ended), *entry.records]
        wrong = await self._run(APPEND, keys, values)
        return [RequestKey.of(request.decode()) for request in wrong]

    async def read(self, request: RequestKey) -> list[bytes]:
        return [fields[b"r"] for _, fields in await self._do("XRANGE", self._stream(request), "-", "+")]

    async def unfinished(self) -> list[RequestKey]:
        found: set[bytes] = set()
        cursor = 0
        while True:
            cursor, some = await self._do("SSCAN", self._unfinished, cursor, "COUNT", 1000)
            found.update(some)
            if (cursor := int(cursor)) == 0:
                return [RequestKey.of(request.decode()) for request in found]

    # What was learned

    async def keep(self, owner: str, name: str, value: bytes) -> None:
        await self._run(KEEP, [self._lease, self._kept], [owner, name, value])

    async def kept(self) -> Mapping[str, bytes]:
        found = await self._do("HGETALL", self._kept)
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        return {name.decode(): value for name, value in pairs}

    # What drafters learned

    async def keep_memory(self, owner: str, name: str, content: bytes) -> None:
        of = self._limits
        values: list[str | bytes | int] = [owner, name, content, round(1e3 * of.age_s), of.most, of.most_bytes]
        await self._run(KEEP_MEMORY, [self._lease, self._memories, self._ages], values)

    async def memory(self, name: str) -> bytes | None:
        values: list[str | int] = [name, round(1e3 * self._limits.age_s)]
        found: bytes | None = await self._run(MEMORY, [self._memories, self._ages], values)
        return found

    async def close(self) -> None:
        await disconnect(self._client)

    # Inside

    @property
    def _waits(self) -> bool:
        """Whether a request must be on disks, or replicas, before it is accepted."""
        return self._config.journal == "fsynced" or self._config.num_replicas > 0

    def _stream(self, request: RequestKey) -> str:
        return f"{self._request}{request.text}"

    async def _run(
        self, script: str, keys: Sequence[str], values: Sequence[str | bytes | int], *, is_durable: bool = False
    ) -> Any:
        command = ("EVAL", script, len(keys), *keys, *values)
        return await (self._do_and_wait(*command) if is_durable else self._do(*command))

    async def _do(self, *command: Any) -> Any:
        with self._asking():
            return await self._client.execute_command(*command)

    async def _do_and_wait(self, *command: Any) -> Any:
        """Both by one connection, for a store waits for the writes of the connection that asks."""
        assert not isinstance(self._client, RedisCluster), "refused by the configuration"
        with self._asking():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.execute_command(*command)
                pipeline.execute_command(*self._waiting)
                answer, reached = await pipeline.execute()
        self._check_reached(reached)
        return answer

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the store's failures are to others; and whoever is cancelled while it asks, ends.

        redis-py sends with asyncio.wait_for, which before Python 3.12 forgets a cancellation that comes just as what
        it waits for is done: a router that ends would then beat for ever.
        """
        asker = asyncio.current_task()
        assert asker is not None, "only coroutines ask"
        num_cancelled = asker.cancelling()
        try:
            yield
        except _FAILURES as error:
            raise self._lost(error) from error
        finally:
            if asker.cancelling() > num_cancelled:
                raise asyncio.CancelledError

    async def _wait(self) -> None:
        """Whether there is a way to wait at all, and whether whom we would wait for is there."""
        self._check_reached(await self._client.execute_command(*self._waiting))

    @property
    def _waiting(self) -> tuple[str | int, ...]:
        if self._config.journal == "fsynced":
            return ("WAITAOF", 1, self._config.num_replicas, _WAIT_MS)
        return ("WAIT", self._config.num_replicas, _WAIT_MS)

    def _check_reached(self, reached: Any) -> None:
        num_disks, num_replicas = reached if self._config.journal == "fsynced" else (1, reached)
        if num_disks < 1 or num_replicas < self._config.num_replicas:
            raise StoreLost(
                f"the store at {self._url} did not make a write durable within {WAIT_S:g} s: on its own disk "
                f"{num_disks}, on replicas {num_replicas} of {self._config.num_replicas}",
                retry_after_s=1.0,
            )

    async def _look_at_memory(self) -> None:
        """A store that forgets keys when its memory is full is worth a warning."""
        if isinstance(self._client, RedisCluster):
            return
        memory = await self._client.info("memory")
        if (policy := memory.get("maxmemory_policy", "noeviction")) != "noeviction" and memory.get("maxmemory"):
            _log.warning("the store at %s forgets keys when it is full (%s): requests may be lost", self._url, policy)

    def _unfit(self, error: Exception) -> ConfigError | StoreLost:
        """What is wrong with a store that was never used."""
        where = f"store.url is {self._url!r}, where"
        if isinstance(error, _NOT_ALLOWED) or isinstance(error.__cause__, _NOT_ALLOWED):
            right = "give its password in store.password_file or in the URL"
            return ConfigError(f"{where} the store refuses us: {_said(error)}; {right}")
        if isinstance(error, ResponseError):
            wanted = f"store.journal {self._config.journal!r} with store.num_replicas {self._config.num_replicas}"
            right = "it needs Redis 7.2 or Valkey with appendonly yes, or another store.journal"
            return ConfigError(f"{where} {wanted} cannot be had: {_said(error)}; {right}")
        right = "it must lead to a Redis or Valkey that runs"
        if isinstance(error, MasterNotFoundError):
            right = "its Sentinels must know a master of this name that runs; store.sentinel_password_file is theirs"
        return StoreLost(f"{where} no store answers: {_said(error)}; {right}", retry_after_s=1.0)

    def _lost(self, error: Exception) -> StoreLost | LeaseLost:
        if isinstance(error, ResponseError) and FENCED in str(error):
            return LeaseLost("another router leads this fleet; ask that one", retry_after_s=1.0)
        return StoreLost(f"the store at {self._url} does not serve: {_said(error)}", retry_after_s=1.0)


def _said(error: Exception) -> str:
    text = str(error).partition(" : <")[0].rstrip(".")
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}..."
