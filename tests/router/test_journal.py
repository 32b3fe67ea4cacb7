"""The journal in memory and the one in a real Valkey are one thing: the same after any operations; also about
what is forgotten, and what a store lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.clock import VirtualClock
from contracts.config import StoreConfig
from contracts.types import RequestId, TenantId
from router.journal.journal import Entry, Journal, Lease, LeaseLost, MemoryLimits, StoreLost
from router.journal.memory import MemoryJournal
from router.journal.redis_journal import RedisJournal
from router.request_key import RequestKey
from tests.router.valkey import Valkey, valkey

NAMES = [
    RequestKey(TenantId(tenant), RequestId(name))
    for tenant, name in (("", "a"), ("t", "a"), ("t:a", "b"), ("t", "a:b"), ("t%3Aa", "b"), ("{ö}", "ä{b}"))
]
MEMORIES = ("kind/one/a", "kind/one/b", "kind/two/a", "kind/two/b")
LIMITS = MemoryLimits(most=3, most_bytes=30)
Operation = Callable[[Journal, dict[str, str]], Awaitable[object]]

entries = st.builds(
    Entry,
    request=st.sampled_from(NAMES),
    num_before=st.integers(0, 4),
    records=st.lists(st.binary(max_size=20), min_size=1, max_size=3).map(tuple),
    has_ended=st.booleans(),
)
who = st.sampled_from(["one", "two"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


def operation() -> st.SearchStrategy[Operation]:
    """Each knows two routers, which remember the lease that they took."""
    return st.one_of(
        who.map(lambda name: lambda journal, owners: take(journal, owners, name)),
        who.map(lambda name: lambda journal, owners: journal.renew(owners.get(name, "nobody"))),
        who.map(lambda name: lambda journal, owners: journal.release(owners.get(name, "nobody"))),
        st.tuples(who, st.sampled_from(NAMES), st.binary(max_size=20)).map(
            lambda told: lambda journal, owners: journal.accept(owners.get(told[0], "nobody"), told[1], told[2])
        ),
        st.tuples(who, st.lists(entries, max_size=4, unique_by=lambda entry: entry.request)).map(
            lambda told: lambda journal, owners: journal.append(owners.get(told[0], "nobody"), told[1])
        ),
        st.tuples(who, st.sampled_from(["x", "y"]), st.binary(max_size=20)).map(
            lambda told: lambda journal, owners: journal.keep(owners.get(told[0], "nobody"), told[1], told[2])
        ),
        st.tuples(who, st.sampled_from(MEMORIES), st.binary(max_size=20)).map(
            lambda told: lambda journal, owners: journal.keep_memory(owners.get(told[0], "nobody"), told[1], told[2])
        ),
    )


async def take(journal: Journal, owners: dict[str, str], name: str) -> Lease | None:
    taken = await journal.take(await journal.lease(), name)
    if taken is not None:
        owners[name] = taken.owner
    return taken


async def outcome(did: Awaitable[object]) -> object:
    try:
        return await did
    except LeaseLost:
        return "refused"


async def everything(journal: Journal) -> object:
    return (
        await journal.lease(),
        [await journal.read(name) for name in NAMES],
        sorted(await journal.unfinished()),
        dict(await journal.kept()),
        [await journal.memory(name) for name in MEMORIES],
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(operation(), max_size=20))
def test_memory_and_redis_are_alike(server: Valkey, operations: list[Operation]) -> None:
    async def run() -> None:
        with server.client() as client:
            client.flushall()
        in_redis = RedisJournal(StoreConfig(url=server.url), LIMITS)
        in_memory = MemoryJournal(VirtualClock(), keep_s=600.0, limits=LIMITS)
        of_redis: dict[str, str] = {}
        of_memory: dict[str, str] = {}
        try:
            await take(in_redis, of_redis, "one")
            await take(in_memory, of_memory, "one")
            for operation in operations:
                assert await outcome(operation(in_redis, of_redis)) == await outcome(operation(in_memory, of_memory))
                assert await everything(in_redis) == await everything(in_memory)
        finally:
            await in_redis.close()

    asyncio.run(run())


async def begun(journal: Journal, name: RequestKey) -> str:
    lease = await journal.take(None, "one")
    assert lease is not None
    assert await journal.accept(lease.owner, name, b"first")
    return lease.owner


def test_what_has_ended_is_forgotten_and_what_has_not_is_not(server: Valkey, tmp_path: Path) -> None:
    async def in_memory() -> None:
        clock = VirtualClock()
        journal = MemoryJournal(clock, keep_s=5.0)
        owner = await begun(journal, NAMES[0])
        await journal.accept(owner, NAMES[1], b"first")
        await journal.append(owner, [Entry(request=NAMES[0], num_before=1, records=(b"end",), has_ended=True)])
        clock.advance(4.9)
        assert await journal.read(NAMES[0]) == [b"first", b"end"]
        clock.advance(0.2)
        assert await journal.read(NAMES[0]) == []
        assert await journal.read(NAMES[1]) == [b"first"]

    async def in_redis() -> None:
        journal = RedisJournal(StoreConfig(url=server.url, namespace="forgotten", keep_s=5.0))
        owner = await begun(journal, NAMES[0])
        await journal.accept(owner, NAMES[1], b"first")
        await journal.append(owner, [Entry(request=NAMES[0], num_before=1, records=(b"end",), has_ended=True)])
        with server.client() as client:
            key = "{specfleet:forgotten}:request:"
            assert 4000 < int(client.pttl(key + NAMES[0].text)) <= 5000
            assert client.pttl(key + NAMES[1].text) == -1
        await journal.close()

    asyncio.run(in_memory())
    asyncio.run(in_redis())


def test_of_what_drafters_learned_the_oldest_goes_where_there_is_too_much(server: Valkey) -> None:
    async def check(journal: Journal) -> None:
        owner = await begun(journal, NAMES[0])
        one, two, three, four = MEMORIES
        for name, num_bytes, left in (
            (one, 15, [one]),
            (two, 15, [one, two]),
            (three, 1, [two, three]),
            (two, 2, [two, three]),
            (one, 3, [one, two, three]),
            (four, 1, [one, two, four]),
            (three, 30, [three]),
        ):
            await journal.keep_memory(owner, name, bytes(num_bytes))
            assert [name for name in MEMORIES if await journal.memory(name) is not None] == sorted(
                left, key=MEMORIES.index
            )

    async def run() -> None:
        await check(MemoryJournal(VirtualClock(), keep_s=5.0, limits=LIMITS))
        in_redis = RedisJournal(StoreConfig(url=server.url, namespace="bounds"), LIMITS)
        await check(in_redis)
        await in_redis.close()

    asyncio.run(run())


def test_what_drafters_learned_is_kept_for_a_while_only(server: Valkey) -> None:
    async def in_memory() -> None:
        clock = VirtualClock()
        journal = MemoryJournal(clock, keep_s=5.0, limits=MemoryLimits(age_s=10.0))
        owner = await begun(journal, NAMES[0])
        await journal.keep_memory(owner, "old", b"x")
        clock.advance(9.0)
        await journal.keep_memory(owner, "new", b"y")
        assert [await journal.memory(name) for name in ("old", "new")] == [b"x", b"y"]
        clock.advance(2.0)
        assert [await journal.memory(name) for name in ("old", "new")] == [None, b"y"]

    async def in_redis() -> None:
        patient, hasty = (
            RedisJournal(StoreConfig(url=server.url, namespace="aged"), MemoryLimits(age_s=age_s))
            for age_s in (100.0, 0.2)
        )
        owner = await begun(patient, NAMES[0])
        await patient.keep_memory(owner, "old", b"x")
        while await hasty.memory("old") is not None:  # noqa: ASYNC110  # a store tells nobody what it has forgotten
            await asyncio.sleep(0.05)
        assert await patient.memory("old") == b"x"
        await hasty.keep_memory(owner, "new", b"y")
        assert await patient.memory("old") is None, "what is too old goes when something is kept"
        with server.client() as client:
            for key in ("{specfleet:aged}:memories", "{specfleet:aged}:memories:ages"):
                assert 0 <= int(client.pttl(key)) <= 200 or not client.exists(key)
        for journal in (patient, hasty):
            await journal.close()

    asyncio.run(in_memory())
    asyncio.run(in_redis())


def test_a_store_that_comes_back_empty_is_noticed(tmp_path: Path) -> None:
    """It has no lease any more, and streams of another length: what was written is written again, not continued."""

    async def run() -> None:
        with valkey(tmp_path / "store") as server:
            journal = RedisJournal(StoreConfig(url=server.url))
            owner = await begun(journal, NAMES[0])
            server.kill()
            with pytest.raises(StoreLost):
                await journal.renew(owner)
            server.start()
            assert await journal.renew(owner) is None
            with pytest.raises(LeaseLost):
                await journal.append(owner, [])
            lease = await journal.take(None, "one")
            assert lease is not None
            more = Entry(request=NAMES[0], num_before=1, records=(b"more",))
            assert await journal.append(lease.owner, [more]) == [NAMES[0]]
            whole = Entry(request=NAMES[0], num_before=0, records=(b"first", b"more"))
            assert await journal.append(lease.owner, [whole]) == []
            assert await journal.read(NAMES[0]) == [b"first", b"more"]
            await journal.close()

    asyncio.run(run())
