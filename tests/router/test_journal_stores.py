"""Every kind of store there is: reached, refused clearly where it is not what it should be, and keeping a journal."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from contracts.config import StoreConfig
from contracts.errors import ConfigError
from contracts.types import RequestId, TenantId
from router.journal.journal import Entry, Journal, Lease, LeaseLost, StoreLost
from router.journal.redis_journal import RedisJournal
from router.request_key import RequestKey
from specfleet.cli.authority import Authority
from tests.router.valkey import DEADLINE_S, Valkey, free_port, valkey

Answer = TypeVar("Answer")
NAMES = [RequestKey(TenantId("{t}"), RequestId(name)) for name in ("a", "b", "{c}")]


async def begun(journal: Journal, name: RequestKey) -> str:
    lease = await journal.take(None, "one")
    assert lease is not None
    assert await journal.accept(lease.owner, name, b"first")
    return lease.owner


def check(config: StoreConfig) -> None:
    async def run() -> None:
        journal = RedisJournal(config)
        try:
            await journal.check()
        finally:
            await journal.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@127.0.0.1:1/0",
        "rediss://127.0.0.1:1",
        "unix:///there/is/none.sock",
        "redis+sentinel://user:secret@127.0.0.1:1,127.0.0.1:2/master/0",
        "redis+cluster://:secret@127.0.0.1:1",
    ],
)
def test_a_store_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(StoreLost, match=r"store\.url is .*no store answers") as refused:
        check(StoreConfig(url=url))
    assert "secret" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_password_is_asked_for_and_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hidden\n")
    with valkey(tmp_path / "store", {"requirepass": "hidden"}) as server:
        with pytest.raises(ConfigError, match=r"store\.url is .*give its password in store\.password_file"):
            check(StoreConfig(url=server.url))
        check(StoreConfig(url=server.url, password_file=str(file)))
    with pytest.raises(ConfigError, match=r"store\.password_file is '/there/is/none'"):
        check(StoreConfig(url="redis://localhost", password_file="/there/is/none"))


def test_a_store_that_is_full_still_says_who_leads(tmp_path: Path) -> None:
    """What was promised before goes on, and its router may be replaced; nothing more is promised."""

    async def scene(server: Valkey) -> None:
        journal = RedisJournal(StoreConfig(url=server.url))
        owner = await begun(journal, NAMES[0])
        with server.client() as client:
            client.config_set("maxmemory", "1")
        with pytest.raises(StoreLost):
            await journal.accept(owner, NAMES[1], b"more")
        await journal.renew(owner)
        assert await journal.take(await journal.lease(), "two") is not None
        await journal.close()

    with valkey(tmp_path / "store") as server:
        asyncio.run(scene(server))


@pytest.mark.parametrize(("setting", "heals"), [("maxmemory", "0"), ("min-replicas-to-write", "0")])
def test_a_store_that_answers_and_takes_nothing_is_not_back(tmp_path: Path, setting: str, heals: str) -> None:
    async def scene(server: Valkey) -> None:
        journal = RedisJournal(StoreConfig(url=server.url))
        owner = await begun(journal, NAMES[0])
        with server.client() as client:
            client.config_set(setting, "1")
            assert await journal.lease() is not None, "it answers"
            with pytest.raises(StoreLost):
                await journal.probe(owner)
            client.config_set(setting, heals)
            await journal.probe(owner)
            assert len(client.keys("*probe*")) == 0, "nothing is left of it"
        with pytest.raises(LeaseLost):
            await journal.probe("nobody")
        await journal.close()

    with valkey(tmp_path / "store") as server:
        asyncio.run(scene(server))


def test_durability_is_checked_before_anyone_relies_on_it(tmp_path: Path) -> None:
    async def accepted(config: StoreConfig) -> bool:
        journal = RedisJournal(config)
        lease = await journal.take(None, "one")
        assert lease is not None
        try:
            return await journal.accept(lease.owner, NAMES[0], b"first")
        finally:
            await journal.close()

    with valkey(tmp_path / "without") as server:
        with pytest.raises(ConfigError, match=r"store\.journal 'fsynced'.*appendonly yes"):
            check(StoreConfig(url=server.url, journal="fsynced"))
        with pytest.raises(StoreLost, match=r"on replicas 0 of 1"):
            check(StoreConfig(url=server.url, num_replicas=1))
    with valkey(tmp_path / "with", {"appendonly": "yes", "appendfsync": "always"}) as server:
        check(StoreConfig(url=server.url, journal="fsynced"))
        assert asyncio.run(accepted(StoreConfig(url=server.url, journal="fsynced")))


def test_a_cluster_keeps_a_journal(tmp_path: Path) -> None:
    port = free_port()
    settings = {"port": str(port), "cluster-enabled": "yes", "cluster-port": str(free_port())}
    with valkey(tmp_path / "node", settings) as node:
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_for(lambda: b"cluster_state:ok" in bytes(client.execute_command("CLUSTER", "INFO")))
        asyncio.run(keeps_a_journal(StoreConfig(url=f"redis+cluster://127.0.0.1:{port}")))


def test_a_master_behind_sentinels_keeps_a_journal(tmp_path: Path) -> None:
    port, watched = free_port(), free_port()
    file = f"sentinel monitor boss 127.0.0.1 {watched} 1\nsentinel auth-pass boss hidden\n"
    theirs = tmp_path / "password"
    theirs.write_text("secretive\n")
    with valkey(tmp_path / "master", {"port": str(watched), "requirepass": "hidden"}):
        url = f"redis+sentinel://:hidden@127.0.0.1:{port}"
        with valkey(tmp_path / "sentinel", {"port": str(port)}, file):
            asyncio.run(keeps_a_journal(StoreConfig(url=f"{url}/boss/0")))
            with pytest.raises(StoreLost, match="no store answers"):
                check(StoreConfig(url=f"{url}/nobody/0"))
        with valkey(tmp_path / "closed", {"port": str(port), "requirepass": "secretive"}, file):
            check(StoreConfig(url=f"{url}/boss/0", sentinel_password_file=str(theirs)))
            with pytest.raises(StoreLost, match=r"No master found for 'boss'; .*store\.sentinel_password_file"):
                check(StoreConfig(url=f"{url}/boss/0"))


def test_who_is_cancelled_while_it_asks_ends_whenever_that_comes(tmp_path: Path) -> None:
    """Else the cancellation of a router that ends may be lost, and it never does."""

    async def run(config: StoreConfig) -> None:
        journal = RedisJournal(config)
        try:
            owner = await begun(journal, NAMES[0])
            num_cancelled = 0
            for num_steps in range(12):  # of the event loop; the answer comes some time after
                asking = asyncio.create_task(journal.renew(owner))
                for _ in range(num_steps):
                    await asyncio.sleep(0)
                if asking.cancel():
                    num_cancelled += 1
                    with pytest.raises(asyncio.CancelledError):
                        await asking
                assert await journal.renew(owner) is not None
            assert num_cancelled >= 4
        finally:
            await journal.close()

    with valkey(tmp_path / "store") as server:
        asyncio.run(run(StoreConfig(url=server.url)))


def test_a_master_that_is_lost_is_followed_to_its_replica(tmp_path: Path) -> None:
    port, watched, successor = free_port(), free_port(), free_port()
    file = (
        f"sentinel monitor boss 127.0.0.1 {watched} 1\n"
        "sentinel down-after-milliseconds boss 1000\n"
        "sentinel failover-timeout boss 2000\n"
    )
    of_replica = {"port": str(successor), "replicaof": f"127.0.0.1 {watched}"}
    with (
        valkey(tmp_path / "master", {"port": str(watched)}) as master,
        valkey(tmp_path / "replica", of_replica) as replica,
        replica.client() as client,
    ):
        wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        with valkey(tmp_path / "sentinel", {"port": str(port)}, file) as sentinel, sentinel.client() as watcher:
            wait_for(lambda: len(watcher.execute_command("SENTINEL", "REPLICAS", "boss")) == 1)
            config = StoreConfig(url=f"redis+sentinel://127.0.0.1:{port}/boss/0")
            asyncio.run(goes_on_without(master, replica, config))


def test_a_node_of_a_cluster_that_is_lost_is_followed_to_its_replica(tmp_path: Path) -> None:
    """Three masters, which is how many it takes to agree that one is dead, and a replica of the one with our keys."""
    with contextlib.ExitStack() as stack:
        nodes: list[Valkey] = []
        ports = [free_port() for _ in range(4)]
        for port in ports:
            settings = {
                "port": str(port),
                "cluster-enabled": "yes",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": "500",
                "cluster-replica-validity-factor": "0",
            }
            nodes.append(stack.enter_context(valkey(tmp_path / str(port), settings)))
        clients = [stack.enter_context(node.client()) for node in nodes]
        for client, (first, last) in zip(clients, ((0, 5460), (5461, 10922), (10923, 16383)), strict=False):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, port in zip(nodes[1:], ports[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, node.settings["cluster-port"])
        slot = int(clients[0].execute_command("CLUSTER", "KEYSLOT", "{specfleet:default}"))
        ours = slot // 5461
        names = [bytes(client.execute_command("CLUSTER", "MYID")) for client in clients]
        # All by their own names: until two have shaken hands, each has a made-up name for the other.
        wait_for(
            lambda: all(
                name in bytes(client.execute_command("CLUSTER", "NODES")) for client in clients for name in names
            )
        )
        clients[3].execute_command("CLUSTER", "REPLICATE", names[ours])
        wait_for(lambda: clients[3].info("replication").get("master_link_status") == "up")
        wait_for(lambda: all(b"state:ok" in bytes(client.execute_command("CLUSTER", "INFO")) for client in clients))
        # It tries the nodes one by one, and that one of them is dead does not keep it from the others.
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        asyncio.run(goes_on_without(nodes[ours], nodes[3], StoreConfig(url=url)))


async def goes_on_without(master: Valkey, replica: Valkey, config: StoreConfig) -> None:
    """The store is away for a while, and then there again with all that its replica had, and takes what comes."""
    journal = RedisJournal(config)
    try:
        await until_served(journal.check)
        owner = await begun(journal, NAMES[0])
        assert await journal.append(owner, [Entry(request=NAMES[0], num_before=1, records=(b"more",))]) == []
        wait_for(lambda: offset_of(replica) >= offset_of(master))
        master.kill()
        assert await until_served(lambda: journal.renew(owner)) == Lease(owner, 1)
        assert await journal.read(NAMES[0]) == [b"first", b"more"]
        assert await journal.append(owner, [Entry(request=NAMES[0], num_before=2, records=(b"end",))]) == []
        assert await journal.read(NAMES[0]) == [b"first", b"more", b"end"]
    finally:
        await journal.close()


async def until_served(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await ask()
        except StoreLost:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)


def offset_of(server: Valkey) -> int:
    """How much it has of what was ever written."""
    with server.client() as client:
        return int(client.info("replication")["master_repl_offset"])


async def keeps_a_journal(config: StoreConfig) -> None:
    journal = RedisJournal(config)
    try:
        await journal.check()
        owner = await begun(journal, NAMES[0])
        more = [Entry(request=name, num_before=0, records=(b"x", b"y")) for name in NAMES[1:]]
        assert await journal.append(owner, more) == []
        assert [await journal.read(name) for name in NAMES] == [[b"first"], [b"x", b"y"], [b"x", b"y"]]
        assert sorted(await journal.unfinished()) == sorted(NAMES)
        await journal.keep(owner, "x", b"learned")
        assert await journal.kept() == {"x": b"learned"}
        await journal.keep_memory(owner, "kind/name/tenant", b"memory")
        assert await journal.memory("kind/name/tenant") == b"memory"
        assert await journal.renew(owner) == Lease(owner, 1)
        with pytest.raises(LeaseLost):
            await journal.append("2:another", more)
    finally:
        await journal.close()


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_store_behind_tls_wants_certificates_of_its_authority(tmp_path: Path) -> None:
    """The TLS is Python's own in front of a real store, for the server of the wheel has none."""
    now = datetime.now(UTC)
    Authority.of(tmp_path / "ca", now).issue(
        tmp_path / "server", role="router", hosts=["localhost"], now=now, valid_for=timedelta(hours=1)
    )
    Authority.of(tmp_path / "ca", now).issue(
        tmp_path / "client", role="admin", hosts=[], now=now, valid_for=timedelta(hours=1)
    )
    files = {"ca_file": "ca.crt", "cert_file": "tls.crt", "key_file": "tls.key"}
    right = {key: str(tmp_path / "client" / name) for key, name in files.items()}

    async def run(server: Valkey) -> None:
        async with tls_before(server, tmp_path / "server") as port:
            url = f"rediss://localhost:{port}/0"
            await keeps_a_journal(StoreConfig.model_validate({"url": url, **right}))
            for wrong in ({}, {"ca_file": right["ca_file"]}):  # nobody it trusts; nobody who trusts us
                journal = RedisJournal(StoreConfig.model_validate({"url": url, **wrong}))
                with pytest.raises(StoreLost, match=r"store\.url is .*no store answers"):
                    await journal.check()
                await journal.close()

    with valkey(tmp_path / "store") as server:
        asyncio.run(run(server))


@contextlib.asynccontextmanager
async def tls_before(server: Valkey, certificates: Path) -> AsyncIterator[int]:
    """A port that speaks TLS, and hands what it hears to the server's socket."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while content := await reader.read(65_536):
                writer.write(content)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_store, to_store = await asyncio.open_unix_connection(server.socket)
        await asyncio.gather(hand_on(reader, to_store), hand_on(from_store, writer))

    listening = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
