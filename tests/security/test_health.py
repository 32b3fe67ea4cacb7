"""Health of a closed router: told without certificates, on a port that tells nothing else. And its log for programs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from specfleet.cli.app import app
from specfleet.health import READY, health_face, main
from specfleet.v1 import admin_pb2, admin_pb2_grpc
from tests.router.valkey import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
PATIENCE_S = 30.0  # less than that of gRPC itself, which is a minute
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and settings: none
HEALTH = health_pb2.HealthCheckResponse


def test_nobody_can_keep_the_face_for_himself() -> None:
    """By calls that are begun and not finished, more than it has threads for, and by connections that say nothing."""
    address = f"127.0.0.1:{free_port()}"
    over = threading.Event()

    def never() -> Iterator[Never]:
        over.wait()
        yield from ()

    with health_face(address), contextlib.ExitStack() as stack:
        stack.callback(over.set)
        host, _, port = address.rpartition(":")
        silent = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(50)]
        for each in silent:
            each.sendall(HTTP2)
        calls: list[Any] = []
        for _ in range(50):
            # A connection for each, or all calls would wait behind the same one.
            own = grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
            calls.append(stack.enter_context(own).stream_unary("/grpc.health.v1.Health/Check").future(never()))
        deadline_s = time.monotonic() + DEADLINE_S
        while not any(call.done() for call in calls):  # some are refused, when the others have taken all there is
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        deadline_s = time.monotonic() + PATIENCE_S
        while main([address]) != 0:
            assert time.monotonic() < deadline_s, "calls that are never finished are not waited for"
            time.sleep(0.1)
        for each in silent:
            each.settimeout(PATIENCE_S)
            while each.recv(4096):  # until it is hung up
                pass


def test_a_closed_router_tells_of_its_health_and_of_nothing_else(ours: Path, tmp_path: Path) -> None:
    keys, file, log = tmp_path / "keys.json", tmp_path / "fleet.yaml", tmp_path / "router.log"
    key = CliRunner().invoke(app, ["keys", "add", str(keys), "ops", "--role", "admin"]).stdout.strip()
    closed = {"tls": str(ours), "api_keys": str(keys)}
    router = {"host": "127.0.0.1", "grpc_port": 0, "http_port": 0}
    fleet = {"engine": {"model": "m"}, "store": {"url": "memory"}, "router": router, "security": closed}
    file.write_text(json.dumps(fleet))  # which is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-u", "-m", "router", "--config", str(file), "--health", address]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=out, env={**os.environ, "SPECFLEET_LOG": "json"}
        )
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while (found := re.search(r"serves gRPC on port (\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert main([address]) == 0, "as a container engine asks"
        with grpc.insecure_channel(address) as channel:
            asked: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=READY)
            assert asked.Check(request, timeout=DEADLINE_S).status == HEALTH.NOT_SERVING, "no verifier has joined"
            with pytest.raises(grpc.RpcError) as refused:
                admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=DEADLINE_S)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with grpc.insecure_channel(f"127.0.0.1:{found[1]}") as channel:
            asked = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.RpcError):
                asked.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    # gRPC's own library, which is no logger of Python's, says in its own form who came without a certificate.
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {"router"}
    assert key not in log.read_text()
