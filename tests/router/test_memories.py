"""What drafters learned is asked for one at a time, kept within bounds, and given to those that come later; no drafter
can say more than it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import pytest

from contracts.clock import VirtualClock
from contracts.errors import InvalidArgument
from contracts.types import DrafterId, Epoch, SamplingParams, SequenceId, TenantId
from router.journal.journal import MemoryLimits, StoreLost
from router.journal.leadership import Leadership
from router.journal.memory import MemoryJournal
from router.memories import DrafterMemories
from router.orders import DrafterOrders, Opened
from specfleet.v1 import fleet_pb2
from tests.router.offers import drafter_offer

EVERY_S = 30.0
A, B = TenantId("a/b"), TenantId("a")
PART = 64 * 2**10


class Journal(MemoryJournal):
    """One whose store is away now and then."""

    is_away = False

    async def memory(self, name: str) -> bytes | None:
        if self.is_away:
            raise StoreLost("away")
        return await super().memory(name)


class Scene:
    """A router's memories, and drafters of which a test plays the other side."""

    def __init__(self, limits: MemoryLimits | None = None) -> None:
        self.clock = VirtualClock()
        self.journal = Journal(self.clock, keep_s=1.0, limits=limits)
        self.leadership = Leadership(self.journal, lease_s=1.0, now_s=self.clock.now_s)
        self.memories = DrafterMemories(self.journal, self.leadership, self.clock, every_s=EVERY_S)
        self.memories.tokenizer = "0123"

    def play(self, script: Callable[[Scene], Awaitable[None]]) -> None:
        async def run() -> None:
            assert await self.leadership.attempt()
            working = asyncio.create_task(self.memories.run())
            await script(self)
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working

        self.clock.run(run())

    async def settle(self) -> None:
        """All that can be done at once is done."""
        await self.clock.sleep(0.5)

    async def next_time(self) -> None:
        """It is time to ask, once."""
        await self.clock.sleep(EVERY_S - self.clock.now_s() % EVERY_S)
        await self.settle()


class Drafter:
    """What one drafter hears."""

    def __init__(self, scene: Scene, name: str = "d", kind: str = "lookahead", *, remembers: bool = True) -> None:
        self.memories, self.name = scene.memories, DrafterId(name)
        self.heard: list[fleet_pb2.ToWorker] = []
        offer = drafter_offer(self.name, kind=kind, has_logits=False, max_context=100, remembers=remembers)
        self.memories.joined(offer, self.heard.append)

    def open(self, number: int, tenant: TenantId) -> None:
        opened = Opened(
            sequence=SequenceId(str(number)),
            epoch=Epoch(0),
            tenant=tenant,
            tokens=(1,),
            num_prompt=1,
            sampling=SamplingParams(),
        )
        self.memories.told(self.name, DrafterOrders(open=[opened]))

    def close(self, number: int) -> None:
        self.memories.told(self.name, DrafterOrders(close=[SequenceId(str(number))]))

    def say(self, tenant: TenantId, content: bytes, *, is_last: bool = True) -> None:
        self.memories.take(self.name, fleet_pb2.MemoryPart(tenant=tenant, content=content, is_last=is_last))

    def wanted(self) -> list[str]:
        """Whom it was asked about, and forgets it."""
        return [message.memory_wanted.tenant for message in self._drain("memory_wanted")]

    def given(self) -> dict[str, bytes]:
        """What it was given, and forgets it."""
        found: dict[str, bytes] = {}
        for message in self._drain("memory"):
            assert len(message.memory.content) <= PART
            found[message.memory.tenant] = found.get(message.memory.tenant, b"") + message.memory.content
        return found

    def _drain(self, kind: str) -> list[fleet_pb2.ToWorker]:
        found = [message for message in self.heard if message.WhichOneof("message") == kind]
        self.heard[:] = [message for message in self.heard if message not in found]
        return found


def test_one_at_a_time_and_only_about_what_changed() -> None:
    async def script(scene: Scene) -> None:
        drafter = Drafter(scene)
        drafter.open(1, A)
        drafter.open(2, B)
        drafter.close(2)
        await scene.settle()
        assert drafter.wanted() == []
        await scene.next_time()
        assert drafter.wanted() == [B]
        await scene.next_time()
        assert drafter.wanted() == [], "the first is not answered yet"
        drafter.say(B, b"of b")
        await scene.settle()
        assert drafter.wanted() == [A]
        drafter.say(A, b"of a")
        await scene.next_time()
        assert drafter.wanted() == [A], "its sequence is open still"
        drafter.close(1)
        drafter.say(A, b"")
        await scene.next_time()
        assert drafter.wanted() == [A], "what it learned last is not known yet"
        drafter.say(A, b"all of a")
        await scene.next_time()
        assert drafter.wanted() == []

    Scene().play(script)


def test_who_comes_later_is_given_what_was_kept_and_nobody_else_is() -> None:
    content = bytes(range(256)) * 600  # more than two parts

    async def script(scene: Scene) -> None:
        first = Drafter(scene)
        first.open(1, A)
        await scene.next_time()
        assert (first.wanted(), first.given()) == ([A], {A: b""})
        for start in range(0, len(content), PART):
            first.say(A, content[start : start + PART], is_last=start + PART >= len(content))
        await scene.settle()
        scene.memories.left(first.name)

        for name, kind, remembers in (("e", "lookahead", True), ("d", "trigram", True), ("d", "lookahead", False)):
            other = Drafter(scene, name, kind, remembers=remembers)
            other.open(1, A)
            await scene.settle()
            assert other.given() == ({A: b""} if remembers else {})
            scene.memories.left(other.name)

        same = Drafter(scene)
        same.open(1, B)
        await scene.settle()
        assert same.given() == {B: b""}
        same.open(2, A)
        await scene.settle()
        assert same.given() == {A: content}
        same.open(3, A)
        await scene.settle()
        assert same.given() == {}, "once is enough"

        scene.memories.left(same.name)
        scene.memories.tokenizer = "4567"
        elsewhere = Drafter(scene)
        elsewhere.open(1, A)
        await scene.settle()
        assert elsewhere.given() == {A: b""}, "its tokens mean other things"

    Scene().play(script)


def test_little_never_takes_the_place_of_much_while_the_store_is_away() -> None:
    async def script(scene: Scene) -> None:
        first = Drafter(scene)
        first.open(1, A)
        await scene.next_time()
        first.say(A, b"much")
        await scene.settle()
        scene.memories.left(first.name)
        scene.journal.is_away = True
        second = Drafter(scene)
        second.open(1, A)
        await scene.next_time()
        assert second.wanted() == []
        scene.journal.is_away = False
        await scene.clock.sleep(2.0)
        assert second.given() == {A: b"much"}
        await scene.next_time()
        assert second.wanted() == [A]

    Scene().play(script)


def test_whose_tokens_they_are_is_said_once_and_first() -> None:
    async def script(scene: Scene) -> None:
        drafter = Drafter(scene)
        await scene.settle()
        assert drafter.heard == []
        for number, tenant in enumerate((A, B, A)):
            drafter.open(number, tenant)
            await scene.settle()
        assert drafter.heard[0].target.tokenizer_digest == "0123"
        assert [message.WhichOneof("message") for message in drafter.heard] == ["target", "memory", "memory"]

    Scene().play(script)


def test_who_has_nothing_any_more_is_given_again_what_was_kept() -> None:
    async def script(scene: Scene) -> None:
        drafter = Drafter(scene)
        drafter.open(1, A)
        await scene.next_time()
        drafter.say(A, b"much")
        await scene.next_time()
        assert (drafter.wanted(), drafter.given()) == ([A, A], {A: b""})
        scene.journal.is_away = True
        drafter.say(A, b"")
        await scene.next_time()
        assert drafter.wanted() == [], "it would say little"
        scene.journal.is_away = False
        await scene.clock.sleep(2.0)
        assert drafter.given() == {A: b"much"}
        await scene.next_time()
        assert drafter.wanted() == [A]

    Scene().play(script)


WRONG: Mapping[str, Callable[[Drafter], None]] = {
    "another tenant": lambda drafter: drafter.say(B, b"x"),
    "a part that is too long": lambda drafter: drafter.say(A, bytes(PART + 1)),
    "a part that is too short": lambda drafter: drafter.say(A, bytes(PART - 1), is_last=False),
    "no end": lambda drafter: repeat(33, lambda: drafter.say(A, bytes(PART), is_last=False)),
    "twice": lambda drafter: repeat(2, lambda: drafter.say(A, b"x")),
}


def repeat(num_times: int, say: Callable[[], None]) -> None:
    for _ in range(num_times):
        say()


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_more_than_was_asked_for_is_refused(wrong: str) -> None:
    async def script(scene: Scene) -> None:
        drafter = Drafter(scene)
        drafter.open(1, A)
        with pytest.raises(InvalidArgument, match="it was not asked"):
            drafter.say(A, b"x")
        await scene.next_time()
        assert drafter.wanted() == [A]
        with pytest.raises(InvalidArgument, match="drafter d s"):
            WRONG[wrong](drafter)

    Scene().play(script)
