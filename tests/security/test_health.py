"""Health of a closed router: told without certificates, on a port that tells nothing else. And its log for programs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from specfleet.cli.app import app
from specfleet.health import READY, main
from specfleet.v1 import admin_pb2, admin_pb2_grpc

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
HEALTH = health_pb2.HealthCheckResponse


def test_a_closed_router_tells_of_its_health_and_of_nothing_else(ours: Path, tmp_path: Path) -> None:
    keys, file, log = tmp_path / "keys.json", tmp_path / "fleet.yaml", tmp_path / "router.log"
    key = CliRunner().invoke(app, ["keys", "add", str(keys), "ops", "--role", "admin"]).stdout.strip()
    closed = {"tls": str(ours), "api_keys": str(keys)}
    router = {"host": "127.0.0.1", "grpc_port": 0, "http_port": 0}
    fleet = {"engine": {"model": "m"}, "store": {"url": "memory"}, "router": router, "security": closed}
    file.write_text(json.dumps(fleet))  # which is YAML
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
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
