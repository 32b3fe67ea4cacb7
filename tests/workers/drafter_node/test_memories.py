"""What a drafter learned goes out when there is nothing to draft, comes back into another one, and is not believed."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from typing import cast

import pytest

from contracts.clock import VirtualClock
from contracts.errors import InvalidArgument
from contracts.types import TenantId
from specfleet.v1 import fleet_pb2
from tests.workers.drafters.rig import REMEMBERING, VOCAB_SIZE, A, B, make, sentences, teach
from workers.drafter_node.memories import Memories, packed, unpacked
from workers.drafters.drafter import RememberingDrafter

DEADLINE_S = 30.0
PART_BYTES = 100
SMALL = 2**17  # of bytes, for four tenants
EMPTY = b'{"version": 1, "kind": "lookahead", "vocab_size": 200, "memory": {"window": 14, "branches": []}}'


class Node:
    """A drafter and its memories, on a clock of its own."""

    def __init__(self, kind: str = "lookahead", *, max_bytes: int = 2**24) -> None:
        self.clock = VirtualClock()
        self.drafter = cast(RememberingDrafter, make(kind, max_bytes=max_bytes, max_tenant_bytes=max_bytes // 4))
        self.memories = Memories(self.drafter, self.clock)

    def want(self, tenant: TenantId = A, *, max_bytes: int = 2**20) -> None:
        self.memories.want(fleet_pb2.MemoryWanted(tenant=tenant, max_bytes=max_bytes, part_bytes=PART_BYTES))

    def said(self) -> list[fleet_pb2.MemoryPart]:
        """All parts that leave until there is nothing to do but to wait for time to pass."""
        parts = []
        deadline_s = time.monotonic() + DEADLINE_S
        while (wait_s := self.memories.wait_s) is not None and wait_s <= 0.01:
            assert time.monotonic() < deadline_s
            if (part := self.memories.step()) is not None:
                parts.append(part)
            elif wait_s:
                time.sleep(0.001)
        return parts

    def answers(self, tenant: TenantId = A) -> list[fleet_pb2.MemoryPart]:
        self.want(tenant)
        self.clock.advance(0.3)
        return self.said()

    def take(self, parts: Sequence[fleet_pb2.MemoryPart]) -> None:
        for part in parts:
            self.memories.take(part)
        assert self.said() == []


def parts_of(content: bytes, tenant: TenantId = A) -> list[fleet_pb2.MemoryPart]:
    return [fleet_pb2.MemoryPart(tenant=tenant, content=content, is_last=True)]


@pytest.mark.parametrize("kind", REMEMBERING)
def test_what_one_drafter_learned_another_one_knows(kind: str) -> None:
    one, other, text = Node(kind), Node(kind), sentences(300, 3)
    teach(one.drafter, A, text[:10], text[10:])
    parts = one.answers()
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {len(part.content) for part in parts[:-1]} == {PART_BYTES}
    other.take(parts)
    assert other.drafter.snapshot(A) == one.drafter.snapshot(A)
    assert other.drafter.num_bytes(B) == 0


@pytest.mark.parametrize("kind", REMEMBERING)
def test_what_is_learned_meanwhile_is_added(kind: str) -> None:
    one, other, both = Node(kind), Node(kind), cast(RememberingDrafter, make(kind))
    earlier, later = sentences(300, 3), sentences(60, 4)
    teach(one.drafter, A, earlier[:10], earlier[10:])
    teach(other.drafter, A, later[:10], later[10:])
    both.restore(A, one.drafter.snapshot(A))
    both.merge(A, other.drafter.snapshot(A))
    other.take(one.answers())
    assert other.drafter.snapshot(A) == both.snapshot(A)


def test_drafting_goes_first_but_not_for_ever() -> None:
    node, text = Node(), sentences(100, 3)
    teach(node.drafter, A, text[:10], text[10:])
    node.want()
    for _ in range(290):
        node.memories.drafted()
        node.clock.advance(0.2)
        assert node.said() == []
    node.clock.advance(2.0)
    node.memories.drafted()
    assert node.said()
    node.want()
    assert node.said() == []
    node.clock.advance(0.3)
    assert node.said(), "as soon as it is quiet"


def test_nothing_and_too_much_are_answered_with_nothing() -> None:
    node, text = Node(), sentences(100, 3)
    nothing = [fleet_pb2.MemoryPart(tenant=A, is_last=True)]
    assert node.answers() == nothing
    teach(node.drafter, A, text[:10], text[10:])
    node.want(max_bytes=50)
    node.clock.advance(0.3)
    assert node.said() == nothing
    assert node.answers() != nothing


def test_of_more_documents_than_are_taken_the_newest_are_told() -> None:
    one, other = Node("retrieval"), Node("retrieval")
    for number in range(20):
        teach(one.drafter, A, [number], sentences(100, number, num_words=VOCAB_SIZE))
    one.want(max_bytes=3000)
    one.clock.advance(0.3)
    parts = one.said()
    assert sum(len(part.content) for part in parts) <= 3000
    other.take(parts)
    told, learned = documents(other.drafter), documents(one.drafter)
    assert 5 <= len(told) < 20
    assert told == learned[-len(told) :]


def documents(drafter: RememberingDrafter) -> list[list[int]]:
    return cast(list[list[int]], cast(dict[str, object], drafter.snapshot(A)["memory"])["documents"])


def test_what_a_drafter_said_itself_is_not_learned_twice() -> None:
    """Its router was started again, and gives it what it has still."""
    node, text = Node(), sentences(100, 3)
    teach(node.drafter, A, text[:10], text[10:])
    before, parts = node.drafter.snapshot(A), node.answers()
    node.memories.reset()
    node.take(parts)
    assert node.drafter.snapshot(A) == before
    node.drafter.forget(A)
    node.take(parts)
    assert node.drafter.snapshot(A) == before, "what it forgot it takes back"


def test_little_never_takes_the_place_of_much_that_made_room_for_others() -> None:
    """Until what was kept is back, nothing is told of a tenant whose memory was dropped."""
    node, whole, text = Node(max_bytes=SMALL), Node(max_bytes=SMALL).drafter, sentences(100, 3)
    teach(node.drafter, A, text[:10], text[10:])
    whole.restore(A, node.drafter.snapshot(A))
    kept, nothing = node.answers(), [fleet_pb2.MemoryPart(tenant=A, is_last=True)]
    fill(node.drafter)
    assert node.drafter.num_bytes(A) == 0
    teach(node.drafter, A, [1, 2, 3], [4, 5, 6])
    whole.merge(A, node.drafter.snapshot(A))
    assert node.answers() == nothing
    node.memories.reset()
    assert node.answers() == nothing, "on a new stream too"
    node.take(kept)
    assert node.drafter.snapshot(A) == whole.snapshot(A)
    assert node.answers() != nothing


def test_what_was_learned_of_another_tokenizer_is_forgotten() -> None:
    node, text = Node(), sentences(100, 3)
    node.memories.turn_to("one")
    teach(node.drafter, A, text[:10], text[10:])
    kept = node.answers()
    node.memories.reset()
    node.memories.turn_to("one")
    assert node.drafter.num_bytes(A) > 0, "the same target, by a router that was started again"
    node.drafter.forget(A)
    for part in kept:
        node.memories.take(part)
    assert node.memories.step() is None, "it is being unpacked"
    teach(node.drafter, B, text[:10], text[10:])
    node.memories.reset()
    node.memories.turn_to("other")
    assert node.said() == []
    assert node.drafter.num_bytes() == 0
    teach(node.drafter, A, [1, 2, 3], [4, 5, 6])
    assert node.answers() != [fleet_pb2.MemoryPart(tenant=A, is_last=True)], "nothing is awaited of the router"


@pytest.mark.parametrize("kept", [b"", b"nonsense"])
def test_what_was_dropped_is_told_anew_where_nothing_was_kept(kept: bytes) -> None:
    node, nothing = Node(max_bytes=SMALL), [fleet_pb2.MemoryPart(tenant=A, is_last=True)]
    teach(node.drafter, A, [1, 2, 3], [4, 5, 6])
    fill(node.drafter)
    teach(node.drafter, A, [1, 2, 3], [4, 5, 6])
    assert node.answers() == nothing
    node.take(parts_of(kept))
    assert node.answers() != nothing


def fill(drafter: RememberingDrafter) -> None:
    """Other tenants take all the room there is."""
    for number in range(6):
        teach(drafter, TenantId(f"other-{number}"), list(range(100)), list(range(100, 200)))


def test_what_was_asked_for_on_a_lost_stream_is_not_said_on_the_next() -> None:
    node, text = Node(), sentences(100, 3)
    teach(node.drafter, A, text[:10], text[10:])
    (first, *others) = node.answers()
    assert others
    node.memories.take(first)
    node.want()
    node.clock.advance(0.3)
    assert node.memories.step() is None, "the snapshot is being packed"
    node.memories.reset()
    assert node.said() == []


def test_a_snapshot_has_in_it_what_was_given_before() -> None:
    one, other, text = Node(), Node(), sentences(100, 3)
    teach(one.drafter, A, text[:10], text[10:])
    parts = one.answers()
    for part in parts:
        other.memories.take(part)
    assert other.answers() == parts


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        zlib.compress(b"{"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(EMPTY)[:-1],
        zlib.compress(b'{"version": 2}'),
        zlib.compress(EMPTY + b" " * 2**24, 1),
        packed({"version": 1, "kind": "trigram", "vocab_size": 200, "memory": {}}),
        packed({"version": 1, "kind": "lookahead", "vocab_size": 200, "memory": {"window": 1, "branches": [[]]}}),
    ],
    ids=["no zlib", "no JSON", "deep", "cut short", "bomb", "version", "another kind", "no branches"],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    node, text = Node(), sentences(100, 3)
    teach(node.drafter, A, text[:10], text[10:])
    before = node.drafter.snapshot(A)
    node.take(parts_of(content))
    assert "what was learned from tenant 'tenant-a' is not taken back" in caplog.text
    assert node.drafter.snapshot(A) == before
    assert node.answers(), "and it goes on"


def test_the_right_form_of_what_is_refused_above_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    node = Node()
    node.take(parts_of(zlib.compress(EMPTY)))
    assert "what was learned from tenant 'tenant-a' is back" in caplog.text


def test_a_memory_without_end_is_dropped() -> None:
    node = Node()
    part = fleet_pb2.MemoryPart(tenant=A, content=bytes(2**20))
    node.take([part] * 5)
    node.take([fleet_pb2.MemoryPart(tenant=A, content=b"x", is_last=True)])
    assert node.drafter.num_bytes(A) == 0


def test_packing_and_unpacking() -> None:
    data: object = {"a": [1, 2.5, "ä", None]}
    assert unpacked(packed(data)) == data == json.loads(json.dumps(data))
    for too_large, max_bytes in (("x" * (2**24 + 1), 2**20), ("x", 3)):
        with pytest.raises(InvalidArgument, match="can be carried"):
            packed(too_large, max_bytes=max_bytes)
