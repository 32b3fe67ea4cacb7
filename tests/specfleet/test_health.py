"""Whether a process is well: asked by the real program of the image, and by gRPC's own stub as a kubelet would."""

from __future__ import annotations

import socket
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specfleet.errors import InvalidRequest
from specfleet.health import READY, Health, health_face, main
from tests.router.valkey import free_port

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def asked(address: str, service: str = "") -> Any:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status


def test_life_and_readiness_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    address = free_address()
    with health_face(address) as health:
        assert asked(address) == SERVING, "a process that loads lives"
        assert asked(address, READY) == NOT_SERVING
        health.beat()
        health.is_ready = True
        assert asked(address, READY) == SERVING
        assert main([address]) == 0
        assert capsys.readouterr().out == "SERVING\n"
    assert main([address]) == 1
    assert f"{address} does not answer" in capsys.readouterr().err


def test_no_proxy_stands_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    address = free_address()
    with health_face(address):
        assert main([address]) == 0


def test_who_stands_still_is_dead_whatever_it_said_before() -> None:
    now_s = 100.0
    health = Health(lambda: now_s)
    now_s += 3600
    states = [health.lives]  # it loads
    health.beat()
    for waited_s in (29, 2):
        now_s += waited_s
        states.append(health.lives)
    health.beat()
    assert [*states, health.lives] == [True, True, False, True]


def test_nothing_else_can_be_asked_there() -> None:
    address = free_address()
    with health_face(address), grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="specfleet.v1.Admin"), timeout=30)
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as watching:
            next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)))
        assert watching.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_an_address_that_cannot_be_had_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidRequest, match=f"--health is '{address}', where this process cannot listen"):
            health_face(address).__enter__()


def test_without_an_address_nobody_is_told() -> None:
    began_s = time.monotonic()
    with health_face(None) as health:
        health.beat()
        assert health.lives
    assert time.monotonic() - began_s < 5.0
