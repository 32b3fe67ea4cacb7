"""A whole fleet behind certificates and keys: the real router, verifier and a drafter that remembers what it read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.clock import SystemClock
from contracts.config import DrafterConfig
from engine.local_group import local_engine
from router.front import FrontLimits
from router.http.app import run_http
from router.security.gate import Gate
from router.security.keyring import KeyRing
from router.server import Router, run_router
from specfleet import AsyncClient
from specfleet.keys import ApiKey, KeyFile, Limits, hash_of, new_key, write_keys
from tests.service.fleet import engine_of
from workers.drafter_node.hosting import hosted
from workers.process import Worker, serve
from workers.verifier.hello import hello_of, probe
from workers.verifier.node import VerifierNode

DEADLINE_S = 60.0
DRAFTER = "remembers"


@dataclass(frozen=True)
class SecureFleet:
    """What a test talks to, as one tenant or another."""

    router: Router
    http: str
    certificates: Path
    keys: Mapping[str, str]
    keys_file: Path

    def client(self, tenant: str) -> AsyncClient:
        return AsyncClient(
            f"127.0.0.1:{self.router.port}",
            api_key=self.keys[tenant],
            tls=self.certificates / "client",
            timeout_s=DEADLINE_S,
        )


@contextlib.asynccontextmanager
async def secure_fleet(
    model: Path,
    certificates: Path,
    keys_file: Path,
    tenants: Mapping[str, Limits],
    *,
    limits: FrontLimits | None = None,
    max_running: int = 64,
) -> AsyncIterator[SecureFleet]:
    keys = {tenant: new_key() for tenant in tenants}
    known = tuple(
        ApiKey(name=tenant, tenant=tenant, roles=("client",), hash=hash_of(key)) for tenant, key in keys.items()
    )
    write_keys(keys_file, KeyFile(keys=known, tenants=tenants))
    gate, tls = Gate(KeyRing(keys_file, SystemClock())), certificates / "router"
    async with (
        run_router(
            "127.0.0.1:0",
            limits=limits or FrontLimits(),
            max_running=max_running,
            is_priced=False,  # drafts are what might leak, whether they pay or not
            gate=gate,
            tls=tls,
        ) as router,
        run_http(router.front, "127.0.0.1", 0, gate=gate, tls=tls) as port,
    ):
        with local_engine(engine_of(model)) as loaded, hosted(DRAFTER, DrafterConfig(kind="retrieval")) as drafter:
            hello = hello_of("verifier", loaded, probe(loaded.engine, SystemClock()))
            async with (
                _joined(router, VerifierNode(loaded.engine, name="verifier", hello=hello), certificates / "verifier"),
                _joined(router, drafter, certificates / "drafter"),
            ):
                yield SecureFleet(router, f"https://127.0.0.1:{port}", certificates, keys, keys_file)


@contextlib.asynccontextmanager
async def _joined(router: Router, worker: Worker, tls: Path) -> AsyncIterator[None]:
    stop = asyncio.Event()
    address = f"127.0.0.1:{router.port}"
    working = asyncio.create_task(serve(worker, router=address, stop=stop, tls=tls))
    try:
        await _until(lambda: worker.name in router.fleet.streams or working.done())
        yield
    finally:
        stop.set()
        await working


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110  # the router tells nobody who is in it but those who ask
            await asyncio.sleep(0.005)
