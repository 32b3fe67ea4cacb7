"""Mutual TLS: who gets in at all, what each role may call, and what happens when certificates are renewed."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from contracts.errors import ConfigError, InvalidArgument
from router.front import FrontLimits
from router.http.app import run_http
from router.security.tls import grpc_credentials
from router.server import Router, run_router
from specfleet import Admin, AsyncClient, Client
from specfleet.errors import InvalidRequest, PermissionDenied, Unavailable
from specfleet.tls import TlsFolder
from specfleet.v1 import admin_pb2, admin_pb2_grpc, fleet_pb2, fleet_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests.security.certificates import make
from workers.inbox import Inbox
from workers.link import Arrival, Link

HELLO = fleet_pb2.FromWorker(drafter_hello=fleet_pb2.DrafterHello(name="one", kind="lookup", capacity=1, step_s=0.1))
DEADLINE_S = 20.0


def serving(tls: Path | None, scene: Callable[[Router], Awaitable[None]]) -> None:
    async def run() -> None:
        async with run_router("127.0.0.1:0", limits=FrontLimits(), tls=tls) as router, asyncio.timeout(DEADLINE_S):
            await scene(router)

    asyncio.run(run())


async def outcome(port: int, call: Callable[[grpc.aio.Channel], Awaitable[Any]], folder: Path | None) -> str:
    """The status of a call with these certificates, by name."""
    address, channel = f"127.0.0.1:{port}", None
    if folder is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        channel = grpc.aio.secure_channel(address, TlsFolder(folder).read().for_channel())
    async with channel:
        try:
            await call(channel)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def models(channel: Any) -> None:
    await inference_pb2_grpc.InferenceStub(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=DEADLINE_S)


async def status(channel: Any) -> None:
    await admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=DEADLINE_S)


async def join(channel: Any, hello: fleet_pb2.FromWorker = HELLO) -> None:
    stream = fleet_pb2_grpc.FleetStub(channel).Join(timeout=DEADLINE_S)
    await stream.write(hello)
    assert (await stream.read()).HasField("welcome")
    stream.cancel()


CALLS = {"models": models, "status": status, "join": join}
MAY = {
    "client": {"models"},
    "admin": {"models", "status"},
    "drafter": {"join"},
    "verifier": set(),  # what it joins as here is a drafter
    "router": set(),
    "auditor": set(),
}


def test_each_role_may_call_its_own_and_nothing_else(tmp_path: Path) -> None:
    """Also a certificate of our authority with a role that nobody knows."""
    folder = make(tmp_path, "auditor")

    async def scene(router: Router) -> None:
        for role, may in MAY.items():
            # The router's own holds for a server only, and fails before anyone asks what it may.
            no = "UNAVAILABLE" if role == "router" else "PERMISSION_DENIED"
            for name, call in CALLS.items():
                assert await outcome(router.port, call, folder / role) == ("OK" if name in may else no), (role, name)

    serving(folder / "router", scene)


def test_a_drafter_never_becomes_the_verifier(ours: Path) -> None:
    """Which would decide tokens, instead of guessing them."""
    hello = fleet_pb2.FromWorker(verifier_hello=fleet_pb2.VerifierHello(name="verifier"))

    async def scene(router: Router) -> None:
        assert await outcome(router.port, partial(join, hello=hello), ours / "drafter") == "PERMISSION_DENIED"
        assert await outcome(router.port, partial(join, hello=hello), ours / "verifier") == "INVALID_ARGUMENT"

    serving(ours / "router", scene)


def test_nobody_gets_in_without_a_certificate_of_our_authority(ours: Path, theirs: Path, tmp_path: Path) -> None:
    bare, mixed = tmp_path / "bare", tmp_path / "mixed"
    shutil.copytree(ours / "client", bare)
    (bare / "tls.crt").unlink()
    (bare / "tls.key").unlink()
    shutil.copytree(theirs / "client", mixed)
    shutil.copy(ours / "client" / "ca.crt", mixed / "ca.crt")  # trusts the router, and is trusted by nobody

    async def scene(router: Router) -> None:
        for folder in (None, bare, mixed, theirs / "client"):
            for call in CALLS.values():
                assert await outcome(router.port, call, folder) == "UNAVAILABLE", folder

    serving(ours / "router", scene)


def test_no_other_role_can_stand_for_the_router(ours: Path) -> None:
    """A worker's or client's certificate holds for one side of a connection, and names no host."""

    async def run() -> None:
        for role in ("verifier", "drafter", "client", "admin"):
            server = grpc.aio.server()
            port = server.add_secure_port("127.0.0.1:0", grpc_credentials(ours / role))
            await server.start()
            try:
                assert await outcome(port, models, ours / "client") == "UNAVAILABLE"
            finally:
                await server.stop(None)

    asyncio.run(run())


def test_a_worker_joins_by_its_own_link_and_is_refused_with_a_clients_certificate(ours: Path) -> None:
    async def scene(router: Router) -> None:
        def link(role: str) -> Link:
            inbox: Inbox[Arrival] = Inbox()
            return Link(
                router=f"127.0.0.1:{router.port}",
                name="one",
                hello=HELLO,
                inbox=inbox,
                tls=ours / role,
                chance=random.Random(0),
            )

        with pytest.raises(
            InvalidArgument, match=r"refused one: the certificate is a client's; .*Fleet is for drafter and verifier"
        ):
            await link("client").run()
        with pytest.raises(ConfigError, match=r"security\.tls: .*nowhere has no tls\.crt, tls\.key, ca\.crt"):
            await link("nowhere").run()
        joined = link("drafter")
        running = asyncio.create_task(joined.run())
        while "one" not in router.fleet.streams:  # noqa: ASYNC110  # the router tells nobody who is in it but by this
            await asyncio.sleep(0.01)
        joined.leave()
        await running

    serving(ours / "router", scene)


def test_clients_use_the_folder_that_they_are_given(ours: Path) -> None:
    async def scene(router: Router) -> None:
        address = f"127.0.0.1:{router.port}"
        async with AsyncClient(address, tls=ours / "client", timeout_s=DEADLINE_S) as client:
            assert await client.list_models() == ()

        def blocking() -> None:
            with Client(address, tls=str(ours / "admin"), timeout_s=DEADLINE_S) as client:
                assert client.list_models() == ()
            with Admin(address, tls=ours / "admin", timeout_s=DEADLINE_S) as admin:
                assert not admin.status().is_draining
            with (
                Admin(address, tls=ours / "client", timeout_s=DEADLINE_S) as client_as_admin,
                pytest.raises(PermissionDenied, match="Admin is for admins; call it with an admin's certificate"),
            ):
                client_as_admin.status()

        await asyncio.to_thread(blocking)

    serving(ours / "router", scene)


def test_a_router_takes_renewed_certificates_without_a_restart(tmp_path: Path, theirs: Path) -> None:
    """Here even of another authority: whoever shows the old one is out, and what is half written changes nothing."""
    own = make(tmp_path / "own")
    folder = tmp_path / "router"
    shutil.copytree(own / "router", folder)

    async def scene(router: Router) -> None:
        assert await outcome(router.port, models, own / "client") == "OK"
        (folder / "tls.key").write_bytes((theirs / "router" / "tls.key").read_bytes())
        assert await outcome(router.port, models, own / "client") == "OK"
        for name in ("tls.crt", "ca.crt"):
            (folder / name).write_bytes((theirs / "router" / name).read_bytes())
        assert await outcome(router.port, models, theirs / "client") == "OK"
        assert await outcome(router.port, models, own / "client") == "UNAVAILABLE"

    serving(folder, scene)


def test_a_client_goes_on_with_renewed_certificates(tmp_path: Path, theirs: Path) -> None:
    """The same client object, whose old certificate the router does not take any more."""
    own = make(tmp_path / "own")
    router_folder, client_folder = tmp_path / "router", tmp_path / "client"
    shutil.copytree(own / "router", router_folder)
    shutil.copytree(own / "client", client_folder)

    def renew(folder: Path, role: str) -> None:
        for name in ("tls.key", "tls.crt", "ca.crt"):
            (folder / name).write_bytes((theirs / role / name).read_bytes())

    async def scene(router: Router) -> None:
        async with AsyncClient(f"127.0.0.1:{router.port}", tls=client_folder, timeout_s=DEADLINE_S) as client:
            await client.list_models()
            renew(client_folder, "client")
            with pytest.raises(Unavailable):  # so it is the new one that it shows, and the router is behind
                await client.list_models()
            renew(router_folder, "router")
            while True:
                try:
                    await client.list_models()
                    return
                except Unavailable:
                    await asyncio.sleep(0.05)

    serving(router_folder, scene)


def test_http_shows_a_certificate_and_renews_it(tmp_path: Path, theirs: Path) -> None:
    own = make(tmp_path / "own")
    folder = tmp_path / "router"
    shutil.copytree(own / "router", folder)

    async def scene(router: Router) -> None:
        async with run_http(router.front, "127.0.0.1", 0, tls=folder) as port:
            with pytest.raises(httpx.RemoteProtocolError):
                await _healthz(f"http://127.0.0.1:{port}", own)
            assert await _healthz(f"https://127.0.0.1:{port}", own) == "ok\n"
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await _healthz(f"https://127.0.0.1:{port}", theirs)
            for name in ("tls.key", "tls.crt", "ca.crt"):
                (folder / name).write_bytes((theirs / "router" / name).read_bytes())
            while True:
                try:
                    assert await _healthz(f"https://127.0.0.1:{port}", theirs) == "ok\n"
                    return
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)

    serving(None, scene)


async def _healthz(url: str, trusted: Path) -> str:
    context = ssl.create_default_context(cafile=str(trusted / "client" / "ca.crt"))
    async with httpx.AsyncClient(verify=context, timeout=DEADLINE_S) as client:
        return (await client.get(f"{url}/healthz")).text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "ca.crt").unlink(), r"has no ca\.crt"),
        (lambda folder: (folder / "tls.key").unlink(), r"has no tls\.key"),
        (lambda folder: (folder / "ca.crt").write_text("no PEM"), r"ca\.crt holds no certificates in PEM"),
        (lambda folder: (folder / "tls.crt").write_text("no PEM"), "are no certificate in PEM with its key"),
        (lambda folder: shutil.copy(folder.parent / "other" / "tls.key", folder), "KEY_VALUES_MISMATCH"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused_with_what_is_wrong(
    ours: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    for name, role in (("folder", "client"), ("other", "admin")):
        shutil.copytree(ours / role, tmp_path / name)
    spoil(tmp_path / "folder")
    with pytest.raises(InvalidRequest, match=words):
        TlsFolder(tmp_path / "folder").read()
    with pytest.raises(InvalidRequest, match=words):
        Client("127.0.0.1:1", tls=tmp_path / "folder")
    with pytest.raises(ConfigError, match=rf"security\.tls: .*{words}"):
        grpc_credentials(tmp_path / "folder")


def test_a_client_without_tls_reaches_no_fleet_that_has_it(ours: Path) -> None:
    async def scene(router: Router) -> None:
        async with AsyncClient(f"127.0.0.1:{router.port}", resume_for_s=0.1) as client:
            with pytest.raises(Unavailable):
                await client.list_models()

    serving(ours / "router", scene)
