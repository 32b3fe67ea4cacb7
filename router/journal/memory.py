"""A journal that lives as long as its process: for fleets without a store, and as a model of what a journal is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contracts.clock import Clock
from router.journal.journal import Entry, Lease, LeaseLost, MemoryLimits
from router.request_key import RequestKey

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """A `Journal`. Requests that have ended are forgotten after `keep_s`."""

    def __init__(self, clock: Clock, *, keep_s: float, limits: MemoryLimits | None = None) -> None:
        self._clock, self._keep_s, self._limits = clock, keep_s, limits or MemoryLimits()
        self._streams: dict[RequestKey, list[bytes]] = {}
        self._ends_s: dict[RequestKey, float] = {}  # in the order in which they end
        self._unfinished: set[RequestKey] = set()
        self._kept: dict[str, bytes] = {}
        self._memories: dict[str, tuple[float, bytes]] = {}  # since when; in the order in which they were kept
        self._lease: Lease | None = None
        self._fence = 0

    async def check(self) -> None:
        pass

    async def lease(self) -> Lease | None:
        return self._lease

    async def take(self, seen: Lease | None, holder: str) -> Lease | None:
        if self._lease != seen:
            return None
        self._fence += 1
        self._lease = Lease(f"{self._fence}:{holder}", 0)
        return self._lease

    async def renew(self, owner: str) -> Lease | None:
        if self._lease is None or self._lease.owner != owner:
            return None
        self._lease = Lease(owner, self._lease.beat + 1)
        return self._lease

    async def release(self, owner: str) -> None:
        if self._lease is not None and self._lease.owner == owner:
            self._lease = None

    async def accept(self, owner: str, request: RequestKey, record: bytes) -> bool:
        self._check_owner(owner)
        if request in self._streams:
            return False
        self._begin(request)
        self._streams[request].append(record)
        return True

    async def probe(self, owner: str) -> None:
        self._check_owner(owner)

    async def append(self, owner: str, entries: Sequence[Entry]) -> list[RequestKey]:
        self._check_owner(owner)
        return [entry.request for entry in entries if not self._append(entry)]

    async def read(self, request: RequestKey) -> list[bytes]:
        self._forget()
        return list(self._streams.get(request, ()))

    async def unfinished(self) -> list[RequestKey]:
        return list(self._unfinished)

    async def keep(self, owner: str, name: str, value: bytes) -> None:
        self._check_owner(owner)
        self._kept[name] = value

    async def kept(self) -> Mapping[str, bytes]:
        return dict(self._kept)

    async def keep_memory(self, owner: str, name: str, content: bytes) -> None:
        self._check_owner(owner)
        self._memories.pop(name, None)
        self._memories[name] = self._clock.now_s(), content
        num_bytes = sum(len(kept) for _, kept in self._memories.values())
        for name, (kept_s, kept) in list(self._memories.items()):
            is_old = kept_s < self._clock.now_s() - self._limits.age_s
            if is_old or len(self._memories) > self._limits.most or num_bytes > self._limits.most_bytes:
                num_bytes -= len(kept)
                del self._memories[name]

    async def memory(self, name: str) -> bytes | None:
        kept_s, content = self._memories.get(name, (float("-inf"), None))
        return content if kept_s >= self._clock.now_s() - self._limits.age_s else None

    async def close(self) -> None:
        pass

    def _check_owner(self, owner: str) -> None:
        self._forget()
        if self._lease is None or self._lease.owner != owner:
            raise LeaseLost("another router leads this fleet")

    def _append(self, entry: Entry) -> bool:
        if entry.num_before and len(self._streams.get(entry.request, ())) != entry.num_before:
            return False
        if entry.num_before == 0:
            self._begin(entry.request)
        self._streams[entry.request] += entry.records
        if entry.has_ended:
            self._unfinished.discard(entry.request)
            self._ends_s.pop(entry.request, None)
            self._ends_s[entry.request] = self._clock.now_s() + self._keep_s
            if not self._streams[entry.request]:
                self._drop(entry.request)
        return True

    def _begin(self, request: RequestKey) -> None:
        self._drop(request)
        self._streams[request] = []
        self._unfinished.add(request)

    def _forget(self) -> None:
        while self._ends_s and next(iter(self._ends_s.values())) <= self._clock.now_s():
            self._drop(next(iter(self._ends_s)))

    def _drop(self, request: RequestKey) -> None:
        self._streams.pop(request, None)
        self._ends_s.pop(request, None)
        self._unfinished.discard(request)
