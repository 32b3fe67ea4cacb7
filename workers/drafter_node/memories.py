"""What a drafter learned of its tenants, on its way to the router and back: drafting goes first.

A snapshot is taken where the drafter stands still, for nothing may change under it, so only when there has been nothing
to draft for a moment; but not never. Everything else (packing, unpacking, making a memory of what was unpacked) is done
beside the drafting, by another thread, and parts leave one at a time when there is nothing to draft.

Of a tenant whose memory was dropped to make room for others, nothing is told until the router has given back what was
kept, so that little never takes the place of much.

What comes from the router is believed in nothing: the memory of a snapshot that makes no sense stays as it was.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from contracts.clock import Clock
from contracts.errors import InvalidArgument, SpecfleetError
from contracts.types import TenantId
from specfleet.v1 import fleet_pb2
from workers.drafters.drafter import RememberingDrafter

__all__ = ["Memories", "packed", "unpacked"]

logger = logging.getLogger(__name__)

_QUIET_S = 0.25  # without anything to draft, for a snapshot of a full memory may take a second
_PATIENCE_S = 60.0  # after which a snapshot is taken between two drafts
_POLL_S = 0.01  # while the other thread works
_MAX_PACKED, _MAX_UNPACKED = 4 * 2**20, 16 * 2**20  # several times what a router asks for

_Finish = Callable[[], None]
"""What is left to do in the thread that drafts."""
_Job = Callable[[], _Finish]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    message: fleet_pb2.MemoryWanted
    since_s: float


class Memories:
    """See the module. All of it belongs to the thread that drafts."""

    def __init__(self, drafter: RememberingDrafter, clock: Clock) -> None:
        self._drafter, self._clock = drafter, clock
        self._tokenizer = ""
        """Digest of the one whose tokens all that was learned is about, once it is known."""
        self._stream = 0
        """Counts the streams: what was asked for on one that is lost is nobody's any more."""
        self._wanted: deque[_Wanted] = deque()
        self._outgoing: deque[fleet_pb2.MemoryPart] = deque()
        self._incoming: tuple[TenantId, bytearray] | None = None
        self._shared: set[TenantId] = set()
        """Whose memory the router was told, or told us: what it gives again is in it already."""
        self._evicted: set[TenantId] = set()
        """Whose memory was dropped, and not given back."""
        drafter.on_evicted(self._evict)
        self._jobs: deque[_Job] = deque()
        self._is_working = False
        self._finished: queue.SimpleQueue[_Finish] = queue.SimpleQueue()
        self._busy_s = clock.now_s()

    def reset(self) -> None:
        """The stream is lost. What was learned stays."""
        self._stream += 1
        self._wanted.clear()
        self._outgoing.clear()
        self._incoming = None

    def turn_to(self, tokenizer: str) -> None:
        """What comes is about this tokenizer's tokens. What was learned of another's is dropped: there the same numbers
        were other tokens."""
        if self._tokenizer not in ("", tokenizer):
            logger.info("the target has another tokenizer; what was learned is forgotten")
            self._drafter.forget()
            self._shared.clear()
            self._evicted.clear()
            self._jobs.clear()
        self._tokenizer = tokenizer

    def drafted(self) -> None:
        """There was something to draft."""
        self._busy_s = self._clock.now_s()

    def want(self, message: fleet_pb2.MemoryWanted) -> None:
        """The router asks for what was learned from a tenant."""
        self._wanted.append(_Wanted(message=message, since_s=self._clock.now_s()))

    def take(self, part: fleet_pb2.MemoryPart) -> None:
        """The router gives back what was learned from a tenant, by this drafter in an earlier life."""
        tenant = TenantId(part.tenant)
        if self._incoming is None or self._incoming[0] != tenant:
            self._incoming = tenant, bytearray()
        content = self._incoming[1]
        content += part.content
        if len(content) > _MAX_PACKED:
            logger.warning("the memory of tenant %r has over %d bytes and is not taken", tenant, _MAX_PACKED)
            self._incoming = None
        elif part.is_last:
            self._incoming = None
            if tenant in self._shared and self._drafter.num_bytes(tenant):
                return
            self._shared.add(tenant)
            if content:
                self._jobs.append(partial(self._restore, tenant, bytes(content), self._tokenizer))
            else:
                self._evicted.discard(tenant)

    @property
    def wait_s(self) -> float | None:
        """After which time there is something to do here; None: not before something comes."""
        if self._outgoing or (self._jobs and not self._is_working):
            return 0.0
        if self._is_working:
            return _POLL_S
        if not self._wanted:
            return None
        now_s, since_s = self._clock.now_s(), self._wanted[0].since_s
        return max(min(self._busy_s + _QUIET_S, since_s + _PATIENCE_S) - now_s, 0.0)

    def step(self) -> fleet_pb2.MemoryPart | None:
        """Does what can be done now, and what is to be told next."""
        while not self._finished.empty():
            self._is_working = False
            self._finished.get()()
        if self._outgoing:
            return self._outgoing.popleft()
        if not self._jobs and not self._is_working and self._wanted and not self.wait_s:
            self._begin(self._wanted.popleft().message)
        if self._jobs and not self._is_working:
            self._is_working = True
            threading.Thread(target=self._work, args=(self._jobs.popleft(),), daemon=True).start()
        return None

    # Inside

    def _work(self, job: _Job) -> None:
        """In the other thread. Whatever happens there, drafting goes on, and so do other memories."""
        finish: _Finish = _nothing
        try:
            finish = job()
        finally:
            self._finished.put(finish)

    def _begin(self, wanted: fleet_pb2.MemoryWanted) -> None:
        """Takes the snapshot; what was given back before is in it, for jobs are done in order."""
        tenant, stream, snapshot = TenantId(wanted.tenant), self._stream, None
        if tenant not in self._evicted:
            self._shared.add(tenant)
            if self._drafter.num_bytes(tenant):
                snapshot = self._drafter.snapshot(tenant, max_bytes=wanted.max_bytes)
        self._jobs.append(lambda: self._pack(wanted, snapshot, stream))

    def _pack(self, wanted: fleet_pb2.MemoryWanted, snapshot: object, stream: int) -> _Finish:
        content = b""
        if snapshot is not None:
            try:
                content = packed(snapshot, max_bytes=wanted.max_bytes)
            except InvalidArgument as error:
                logger.warning("what was learned from tenant %r is not kept: %s", wanted.tenant, error)
        size = max(wanted.part_bytes, 1)
        parts = [content[first : first + size] for first in range(0, len(content), size)] or [b""]

        def finish() -> None:
            if stream == self._stream:
                self._outgoing.extend(
                    fleet_pb2.MemoryPart(tenant=wanted.tenant, content=part, is_last=number == len(parts))
                    for number, part in enumerate(parts, start=1)
                )

        return finish

    def _restore(self, tenant: TenantId, content: bytes, tokenizer: str) -> _Finish:
        adopt: _Finish = _nothing
        try:
            adopt = self._drafter.prepared(tenant, unpacked(content))
            logger.info("what was learned from tenant %r is back: %d bytes", tenant, len(content))
        except SpecfleetError as error:
            logger.warning("what was learned from tenant %r is not taken back: %s", tenant, error)

        def finish() -> None:
            if tokenizer == self._tokenizer:
                adopt()
                self._evicted.discard(tenant)

        return finish

    def _evict(self, tenant: TenantId) -> None:
        self._shared.discard(tenant)
        self._evicted.add(tenant)


def packed(snapshot: object, *, max_bytes: int = _MAX_PACKED) -> bytes:
    """A snapshot as bytes; InvalidArgument where it is too large for the other side, or for whoever unpacks it."""
    text = json.dumps(snapshot, separators=(",", ":")).encode()
    content = zlib.compress(text, 1)
    if len(text) > _MAX_UNPACKED or len(content) > max_bytes:
        raise InvalidArgument(
            f"a memory has {len(text)} bytes, {len(content)} when packed; at most {_MAX_UNPACKED} and {max_bytes} can "
            "be carried"
        )
    return content


def unpacked(content: bytes) -> object:
    """Back again; InvalidArgument for what is none, or would be too large."""
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(content, _MAX_UNPACKED)
        if not unpacking.eof:
            raise InvalidArgument(f"a memory of {len(content)} bytes has no end, or over {_MAX_UNPACKED} when unpacked")
        found: object = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:  # JSON's own errors are ValueErrors
        raise InvalidArgument(f"a memory of {len(content)} bytes cannot be unpacked: {error}") from error
    return found


def _nothing() -> None:
    pass
