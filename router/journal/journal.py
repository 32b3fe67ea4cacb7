"""What every journal does: a stream of records for each request, a lease on all of them, and what was learned.

Every write names the owner of the lease and is refused as a whole when that is someone else by now. So a router that
was asleep while another took over can say nothing any more, whatever it believes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.errors import Unavailable
from router.request_key import RequestKey

__all__ = ["Entry", "Journal", "Lease", "LeaseLost", "MemoryLimits", "StoreLost"]


class StoreLost(Unavailable):
    """The store does not answer, or cannot write."""


class LeaseLost(Unavailable):
    """Another router leads, or none does: this one may not write, and not speak."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads: `owner` is a number that grows with every change of owner, and a name. `beat` grows while it lives."""

    owner: str
    beat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Records of one request, behind the `num_before` that its stream has; with 0 they replace whatever is there.

    `has_ended`: these are the last, and the whole stream is kept for a while only.
    """

    request: RequestKey
    num_before: int
    records: tuple[bytes, ...]
    has_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """How much of what drafters learned is kept: for how long, and of how many, and how large all of it may be. Where
    there is too much, what was kept longest ago goes first.
    """

    age_s: float = 7 * 86_400.0
    most: int = 1024
    most_bytes: int = 128 * 2**20


class Journal(Protocol):
    """See the module. All raise `StoreLost`; what writes raises `LeaseLost` and has then written nothing."""

    async def check(self) -> None:
        """Whether the store is one that can keep what is asked of it; ConfigError where it never will."""
        ...

    # The lease

    async def lease(self) -> Lease | None:
        """As it is; None when nobody leads."""
        ...

    async def take(self, seen: Lease | None, holder: str) -> Lease | None:
        """Takes the lease if it is still as it was `seen`; None when it is not."""
        ...

    async def renew(self, owner: str) -> Lease | None:
        """The next beat; None when the lease is someone else's, or nobody's."""
        ...

    async def release(self, owner: str) -> None:
        """Nobody leads any more, if it was this one."""
        ...

    # Requests

    async def accept(self, owner: str, request: RequestKey, record: bytes) -> bool:
        """Begins the stream of a new request; False if there is one already, which stays as it is."""
        ...

    async def probe(self, owner: str) -> None:
        """Writes as for a new request, and takes it back: a store that answers may still keep nothing."""
        ...

    async def append(self, owner: str, entries: Sequence[Entry]) -> list[RequestKey]:
        """Writes; the requests whose stream had another length than `num_before`, and got nothing."""
        ...

    async def read(self, request: RequestKey) -> list[bytes]:
        """All records of a request in order; none if it is unknown, or was forgotten."""
        ...

    async def unfinished(self) -> list[RequestKey]:
        """Those that have not ended, in no order."""
        ...

    # What was learned

    async def keep(self, owner: str, name: str, value: bytes) -> None:
        """Keeps a value by its name, in place of the last one."""
        ...

    async def kept(self) -> Mapping[str, bytes]:
        """All that is kept."""
        ...

    async def keep_memory(self, owner: str, name: str, content: bytes) -> None:
        """Keeps what a drafter learned, in place of the last that had this name; within `MemoryLimits`."""
        ...

    async def memory(self, name: str) -> bytes | None:
        """What is kept by this name, and not too old."""
        ...

    async def close(self) -> None:
        """Lets go of the store."""
        ...
