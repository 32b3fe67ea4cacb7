"""The gRPC face to workers: one stream for each, whose life is its membership."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from contracts.config.names import is_name
from contracts.errors import AlreadyExists, DeadlineExceeded, InvalidArgument, Overloaded, QuotaExceeded
from contracts.types import DrafterId
from router import wire
from router.drafter_allowance import DrafterAllowance, Pace
from router.drafter_probe import DrafterProbes
from router.front import Front
from router.grpc_errors import streams
from router.memories import DrafterMemories
from router.orders import DrafterOffer, DrafterOrders, VerifierOrders
from router.quarantine import BROKEN, UNASKED, Stranger
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.security.caller import caller, check_worker
from router.target_text import TargetText
from router.timeline import Timeline
from specfleet.v1 import fleet_pb2, fleet_pb2_grpc

__all__ = ["FleetService", "WorkerStream"]

_log = logging.getLogger(__name__)
_HELLO_S = 10.0
_MAX_QUEUED = 4096  # messages to one worker that does not read: it is as good as dead
_MAX_DRAFTERS = 256


class WorkerStream:
    """What is to be sent to one worker. Sending never waits; a worker that does not read is given up."""

    def __init__(self, *, is_verifier: bool, certificate: str = "") -> None:
        self.is_verifier, self.certificate = is_verifier, certificate
        self.allowance = DrafterAllowance()
        self.reader: asyncio.Task[None] | None = None
        """Hears what the worker says."""
        self._queue: asyncio.Queue[fleet_pb2.ToWorker | None] = asyncio.Queue()

    def put(self, message: fleet_pb2.ToWorker) -> None:
        if self._queue.qsize() >= _MAX_QUEUED:
            while not self._queue.empty():
                self._queue.get_nowait()
            self.end()
        else:
            self._queue.put_nowait(message)

    def end(self) -> None:
        """Nothing more goes out after what is queued."""
        self._queue.put_nowait(None)

    async def messages(self) -> AsyncIterator[fleet_pb2.ToWorker]:
        while (message := await self._queue.get()) is not None:
            yield message


class _VerifierLink:
    def __init__(self, stream: WorkerStream) -> None:
        self.stream = stream

    def send(self, orders: VerifierOrders) -> None:
        self.stream.put(wire.verifier_work(orders))


class _DrafterLink:
    def __init__(self, stream: WorkerStream, told: Callable[[DrafterOrders], None]) -> None:
        self.stream, self._told = stream, told

    def send(self, orders: DrafterOrders) -> None:
        self.stream.allowance.grant(orders)
        self._told(orders)
        self.stream.put(wire.drafter_work(orders))


class FleetService(fleet_pb2_grpc.FleetServicer):
    """See the module."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        loop: SchedulingLoop,
        front: Front,
        timeline: Timeline,
        memories: DrafterMemories,
    ) -> None:
        self.memories = memories
        self.name, self.scheduler, self.loop, self.front, self.timeline = name, scheduler, loop, front, timeline
        self.streams: dict[str, WorkerStream] = {}
        self.probes = DrafterProbes(scheduler)
        loop.on_idle = self.probes.go_on
        self.quarantine = scheduler.pool.quarantine

    @streams
    async def Join(
        self, messages: AsyncIterator[fleet_pb2.FromWorker], context: Any
    ) -> AsyncIterator[fleet_pb2.ToWorker]:
        self.front.leadership.check()
        hello = await _first(messages)
        stream = WorkerStream(
            is_verifier=hello.WhichOneof("message") == "verifier_hello", certificate=caller().certificate
        )
        check_worker("verifier" if stream.is_verifier else "drafter")
        match hello.WhichOneof("message"):
            case "verifier_hello":
                name = self._admit_verifier(hello.verifier_hello, stream)
                read = partial(self._read_verifier, messages)
            case "drafter_hello":
                who = Stranger(name=hello.drafter_hello.name, certificate=stream.certificate)
                offer = self._admit_drafter(hello.drafter_hello, stream, who)
                name, read = who.name, partial(self._read_drafter, messages, offer, stream, who)
            case other:
                raise InvalidArgument(f"a worker's first message is {other}; it says hello first")
        self.streams[name] = stream
        _log.info("%s joined", name)
        reader = stream.reader = asyncio.create_task(self._read_all(read, stream))
        try:
            yield fleet_pb2.ToWorker(welcome=fleet_pb2.Welcome(router=self.name))
            async for message in stream.messages():
                yield message
            if (error := reader.exception() if reader.done() and not reader.cancelled() else None) is not None:
                raise error
        finally:
            reader.cancel()
            self._leave(name, stream)

    def drain(self, worker: str) -> list[str]:
        """Asks a worker to leave, or with an empty name all of them; their names."""
        names = [name for name in self.streams if worker in ("", name)]
        for name in names:
            self.streams[name].put(fleet_pb2.ToWorker(drain=fleet_pb2.Drain()))
        return names

    # Inside

    def _replace(self, name: str, stream: WorkerStream) -> None:
        """A worker that dials again may find its own last stream still there, whose end nobody has noticed yet: that
        one is not waited for, since its peer may never answer, and not heard any more. No drafter can keep the target
        out by having its name.
        """
        if (old := self.streams.get(name)) is None:
            return
        if old.is_verifier and not stream.is_verifier:
            raise AlreadyExists(f"{name} is here already and is another kind of worker; give each a name of its own")
        if old.certificate != stream.certificate and not stream.is_verifier:
            raise AlreadyExists(f"{name} is here already, with another certificate; give each worker a name of its own")
        _log.info("%s joined again; its last stream ends", name)
        if old.reader is not None:
            old.reader.cancel()
        old.end()
        self._leave(name, old)

    def _admit_verifier(self, hello: fleet_pb2.VerifierHello, stream: WorkerStream) -> str:
        offer = wire.verifier_offer(hello)
        serving = self.scheduler.verifier
        if serving is not None and serving.offer.name != offer.name:
            raise AlreadyExists(f"verifier {serving.offer.name} serves already; this router has one")
        known = self.front.offer
        if known is not None and known.model != offer.model:
            raise InvalidArgument(
                f"verifier {offer.name} runs {offer.model.name} ({offer.model.weights_digest[:12]}); this fleet began "
                f"with {known.model.name} ({known.model.weights_digest[:12]}), and a text must not change its model"
            )
        for drafter in self.scheduler.pool.offers:
            _check_tokenizer(drafter, offer.model.tokenizer_digest)
        text = TargetText.load(
            dict(hello.tokenizer_files), vocab_size=offer.model.vocab_size, end_tokens=sorted(offer.eos_token_ids)
        )
        # Only now: one that is refused throws nobody out.
        self._replace(offer.name, stream)
        is_new = self.front.offer is None
        self.front.target_joined(offer, text)
        self.memories.tokenizer = offer.model.tokenizer_digest
        self.scheduler.verifier_joined(offer, _VerifierLink(stream))
        for drafter in self.scheduler.pool.offers if is_new else []:
            self._probe(drafter)
        self.probes.go_on()
        self.loop.poke()
        return offer.name

    def _admit_drafter(self, hello: fleet_pb2.DrafterHello, stream: WorkerStream, who: Stranger) -> DrafterOffer:
        self.quarantine.check(who)
        try:
            offer = wire.drafter_offer(hello)
            if self.front.offer is not None:
                _check_tokenizer(offer, self.front.offer.model.tokenizer_digest)
            self.quarantine.joins(who)
            self._replace(who.name, stream)
        except (InvalidArgument, AlreadyExists) as error:
            self._offended(who, error)
            raise
        if len(self.scheduler.pool.offers) >= _MAX_DRAFTERS:
            raise Overloaded(f"{_MAX_DRAFTERS} drafters are in the fleet, and no more may be", retry_after_s=5.0)
        self.memories.joined(offer, stream.put)
        self.scheduler.drafter_joined(offer, _DrafterLink(stream, partial(self.memories.told, offer.drafter)))
        self._probe(offer)
        self.loop.poke()
        return offer

    def _offended(self, who: Stranger, error: InvalidArgument | AlreadyExists) -> None:
        """Counts what a drafter is refused for; raises where that puts it into quarantine."""
        if is_name(who.name) and (refusal := self.quarantine.offends(who, BROKEN, error.message)) is not None:
            _log.warning("%s", refusal.message)
            raise refusal from error

    def _probe(self, drafter: DrafterOffer) -> None:
        """Those with a model; the others know nothing before they have seen a text."""
        if drafter.has_logits and self.front.text is not None and self.front.offer is not None:
            self.probes.begin(drafter.drafter, self.front.text.encode, max_context=self.front.offer.max_context)

    async def _read_all(self, read: Callable[[], Awaitable[None]], stream: WorkerStream) -> None:
        """Begins to read by itself: one that is thrown out before it was heard has begun nothing."""
        try:
            await read()
        finally:
            stream.end()

    async def _read_verifier(self, messages: AsyncIterator[fleet_pb2.FromWorker]) -> None:
        async for message in messages:
            if message.WhichOneof("message") != "round_done":
                raise InvalidArgument(f"a verifier sends {message.WhichOneof('message')}; it answers rounds only")
            done = wire.round_done(message.round_done)
            self.loop.poke()  # before anybody hears of a token: clients are told while the next round is under way
            self.scheduler.round_done(done)
            self.probes.go_on()

    async def _read_drafter(
        self, messages: AsyncIterator[fleet_pb2.FromWorker], offer: DrafterOffer, stream: WorkerStream, who: Stranger
    ) -> None:
        pace = Pace(self.scheduler.clock)
        try:
            async for message in messages:
                if (kind := message.WhichOneof("message")) not in ("drafts", "memory"):
                    raise InvalidArgument(f"a drafter sends {kind}; it sends drafts, and what it learned when asked")
                if kind == "memory":
                    self.memories.take(offer.drafter, message.memory)
                elif stream.allowance.spend(message.drafts):
                    self._take(message.drafts, offer)
                else:
                    self._drop(who)
                if (wait_s := pace.next_s()) > 0.0:
                    await self.scheduler.clock.sleep(wait_s)
        except InvalidArgument as error:
            self._offended(who, error)
            raise

    def _take(self, message: fleet_pb2.Drafts, offer: DrafterOffer) -> None:
        num_tokens = self.front.offer.num_real_tokens if self.front.offer is not None else 0
        drafts = wire.drafts(message, offer.drafter, num_tokens=num_tokens)
        self.timeline.drafted(offer.drafter, drafts)
        self.scheduler.drafts(offer.drafter, drafts)
        if self.scheduler.is_idle:
            self.loop.poke()

    def _drop(self, who: Stranger) -> None:
        refusal: QuotaExceeded | None = self.quarantine.offends(who, UNASKED, "it says far more than it is asked for")
        if refusal is not None:
            _log.warning("%s", refusal.message)
            raise refusal

    def _leave(self, name: str, stream: WorkerStream) -> None:
        """Out of the fleet, unless it is already and another has its name now."""
        if self.streams.get(name) is not stream:
            return
        del self.streams[name]
        _log.info("%s left", name)
        if stream.is_verifier:
            self.scheduler.verifier_left()
        else:
            self.memories.left(DrafterId(name))
            self.scheduler.drafter_left(DrafterId(name))
            self.probes.forget(DrafterId(name))
        self.loop.poke()


async def _first(messages: AsyncIterator[fleet_pb2.FromWorker]) -> fleet_pb2.FromWorker:
    """What a stream begins with. One that says nothing is not kept."""
    try:
        async with asyncio.timeout(_HELLO_S):
            return await anext(messages)
    except StopAsyncIteration:
        raise InvalidArgument("a worker ends its stream before its first message; it says hello first") from None
    except TimeoutError:
        raise DeadlineExceeded(f"a worker says nothing for {_HELLO_S:.0f} s; it says hello first") from None


def _check_tokenizer(drafter: DrafterOffer, digest: str) -> None:
    if drafter.model is not None and drafter.model.tokenizer_digest != digest:
        raise InvalidArgument(
            f"drafter {drafter.drafter} has another tokenizer ({drafter.model.tokenizer_digest[:12]}) than the target "
            f"({digest[:12]}), so its token ids mean other things; use a drafter made for the target's tokenizer"
        )
