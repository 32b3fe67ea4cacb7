"""What drafters learned of tenants, kept in the store for a drafter of the same name and kind that comes later.

A drafter is asked every so often, for one tenant at a time: never more than one memory is on its way from it. It is
asked only about tenants whose sequences it had since it was asked last, and only once it was given what there was
before, so that little never takes the place of much: one that says it has nothing may have dropped it to make room for
others, and is given it again. What it says is kept as it is and never looked into: the next drafter believes nothing of
it. What is given back goes beside a tenant's first sequence, in parts with pauses, for drafting goes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from contracts.clock import Clock
from contracts.errors import InvalidArgument, shown
from contracts.types import DrafterId, SequenceId, TenantId
from router.journal.journal import Journal, LeaseLost, StoreLost
from router.journal.leadership import Leadership
from router.orders import DrafterOffer, DrafterOrders
from specfleet.v1 import fleet_pb2

__all__ = ["DrafterMemories"]

_log = logging.getLogger(__name__)
_MAX_BYTES = 2 * 2**20  # packed; a full memory of 32 MiB has up to 0.4, of documents more
_PART_BYTES = 64 * 2**10  # a message that long delays those behind it little
_PAUSE_S = 0.005  # between two parts
_RETRY_S = 1.0

_Send = Callable[[fleet_pb2.ToWorker], None]


@dataclass(slots=True, kw_only=True, eq=False)
class _Remembering:
    """A drafter on one stream."""

    offer: DrafterOffer
    send: _Send
    tenant_of: dict[SequenceId, TenantId] = field(default_factory=dict)
    """Of the sequences that it has open."""
    seen: set[TenantId] = field(default_factory=set)
    given: set[TenantId] = field(default_factory=set)
    """Of those seen, who have nothing in the store that it was not given, or dropped since."""
    changed: set[TenantId] = field(default_factory=set)
    to_ask: deque[TenantId] = field(default_factory=deque)
    asked: TenantId | None = None
    is_keeping: bool = False
    """Whether its last answer is on its way to the store."""
    content: bytearray = field(default_factory=bytearray)
    """What came so far of the answer."""


class DrafterMemories:
    """See the module. `tokenizer` is the digest of the target's: what was learned of other tokens says nothing."""

    def __init__(self, journal: Journal, leadership: Leadership, clock: Clock, *, every_s: float) -> None:
        self.tokenizer = ""
        self._journal, self._leadership, self._clock, self._every_s = journal, leadership, clock, every_s
        self._drafters: dict[DrafterId, _Remembering] = {}
        self._to_give: asyncio.Queue[tuple[_Remembering, TenantId]] = asyncio.Queue()
        self._to_keep: asyncio.Queue[tuple[_Remembering, TenantId, bytes]] = asyncio.Queue()

    # The drafters

    def joined(self, offer: DrafterOffer, send: _Send) -> None:
        """A drafter, on a new stream."""
        if offer.remembers:
            self._drafters[offer.drafter] = _Remembering(offer=offer, send=send)

    def left(self, drafter: DrafterId) -> None:
        """What it did not say is lost."""
        self._drafters.pop(drafter, None)

    def told(self, drafter: DrafterId, orders: DrafterOrders) -> None:
        """What it is told next of sequences, and so may learn from; before the first, whose tokens they are. Called
        between two rounds: it must cost nothing."""
        if (remembering := self._drafters.get(drafter)) is None:
            return
        for sequence in orders.close:
            if (tenant := remembering.tenant_of.pop(sequence, None)) is not None:
                remembering.changed.add(tenant)
        if orders.open and not remembering.seen:
            remembering.send(fleet_pb2.ToWorker(target=fleet_pb2.Target(tokenizer_digest=self.tokenizer)))
        for opened in orders.open:
            remembering.tenant_of[opened.sequence] = opened.tenant
            if opened.tenant not in remembering.seen:
                remembering.seen.add(opened.tenant)
                self._to_give.put_nowait((remembering, opened.tenant))

    def take(self, drafter: DrafterId, part: fleet_pb2.MemoryPart) -> None:
        """A part of an answer; InvalidArgument for what was not asked for, or is more."""
        remembering = self._drafters.get(drafter)
        if remembering is None or remembering.asked is None or part.tenant != remembering.asked:
            raise InvalidArgument(
                f"drafter {drafter} says what it learned from tenant {shown(part.tenant)}; it was not asked"
            )
        size = len(part.content)
        if not (size <= _PART_BYTES if part.is_last else size == _PART_BYTES):
            raise InvalidArgument(
                f"drafter {drafter} sends {size} bytes as part of a memory; right are {_PART_BYTES}, fewer at its end"
            )
        remembering.content += part.content
        if len(remembering.content) > _MAX_BYTES:
            raise InvalidArgument(f"drafter {drafter} sends a memory of over {_MAX_BYTES} bytes; that is the most")
        if part.is_last:
            content, remembering.content = bytes(remembering.content), bytearray()
            self._to_keep.put_nowait((remembering, remembering.asked, content))
            remembering.asked, remembering.is_keeping = None, True

    # The store

    async def run(self) -> None:
        """Gives, asks and keeps, for ever."""
        async with asyncio.TaskGroup() as beside:
            for task in (self._ask(), self._give(), self._keep()):
                beside.create_task(task)

    async def _ask(self) -> None:
        while True:
            await self._clock.sleep(self._every_s)
            for remembering in self._drafters.values():
                remembering.changed.update(remembering.tenant_of.values())
                due = remembering.changed & remembering.given - set(remembering.to_ask)
                remembering.changed -= due
                remembering.to_ask.extend(sorted(due))
                self._ask_next(remembering)

    def _ask_next(self, remembering: _Remembering) -> None:
        if remembering.to_ask and remembering.asked is None and not remembering.is_keeping:
            tenant = remembering.asked = remembering.to_ask.popleft()
            wanted = fleet_pb2.MemoryWanted(tenant=tenant, max_bytes=_MAX_BYTES, part_bytes=_PART_BYTES)
            remembering.send(fleet_pb2.ToWorker(memory_wanted=wanted))

    async def _keep(self) -> None:
        while True:
            remembering, tenant, content = await self._to_keep.get()
            if content:
                try:
                    name = self._name(remembering.offer, tenant)
                    await self._journal.keep_memory(self._leadership.owner, name, content)
                except (StoreLost, LeaseLost) as error:
                    _log.warning("what drafter %s learned is not kept this time: %s", remembering.offer.drafter, error)
                    remembering.changed.add(tenant)
            else:
                remembering.given.discard(tenant)
                self._to_give.put_nowait((remembering, tenant))
            remembering.is_keeping = False
            if self._is_here(remembering):
                self._ask_next(remembering)

    async def _give(self) -> None:
        while True:
            remembering, tenant = await self._to_give.get()
            if not self._is_here(remembering):
                continue
            try:
                content = await self._journal.memory(self._name(remembering.offer, tenant))
            except StoreLost as error:
                _log.warning("what drafter %s learned before is not there yet: %s", remembering.offer.drafter, error)
                self._to_give.put_nowait((remembering, tenant))
                await self._clock.sleep(_RETRY_S)
                continue
            await self._send(remembering, tenant, content or b"")
            remembering.given.add(tenant)

    async def _send(self, remembering: _Remembering, tenant: TenantId, content: bytes) -> None:
        for first in range(0, max(len(content), 1), _PART_BYTES):
            if first:
                await self._clock.sleep(_PAUSE_S)
            if not self._is_here(remembering):
                return
            last = first + _PART_BYTES
            part = fleet_pb2.MemoryPart(tenant=tenant, content=content[first:last], is_last=last >= len(content))
            remembering.send(fleet_pb2.ToWorker(memory=part))
        if content:
            drafter = remembering.offer.drafter
            _log.info("drafter %s was given what it learned from tenant %r: %d bytes", drafter, tenant, len(content))

    def _is_here(self, remembering: _Remembering) -> bool:
        return self._drafters.get(remembering.offer.drafter) is remembering

    def _name(self, offer: DrafterOffer, tenant: TenantId) -> str:
        """By which the store knows it: no tenant, and no drafter, can have another's."""
        parts = (self.tokenizer[:16], offer.kind, str(offer.drafter), tenant)
        return "/".join(quote(part, safe="") for part in parts)
