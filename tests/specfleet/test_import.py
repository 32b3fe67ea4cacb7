"""The client loads fast and alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import specfleet

MAX_CPU_S = 0.3


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_clients_load_within_their_budget() -> None:
    # The best of three: a busy machine makes processor time itself look longer.
    program = (
        "import time; began = time.process_time(); from specfleet import AsyncClient, Client;"
        "Client('127.0.0.1:1'); print(time.process_time() - began)"
    )
    assert min(float(python(program)) for _ in range(3)) < MAX_CPU_S


def test_nothing_else_of_ours_is_loaded_and_nothing_heavy() -> None:
    program = "import specfleet.cli, specfleet.async_client, specfleet.client, sys; print(*sorted(sys.modules))"
    loaded = {name.partition(".")[0] for name in python(program).split()}
    assert loaded.isdisjoint(
        {"torch", "ray", "numpy", "contracts", "engine", "router", "workers", "cluster", "speculation", "kernels"}
    )


def test_a_client_without_opentelemetry_sends_no_trace() -> None:
    program = (
        "import sys; from specfleet.grpc_transport import GrpcTransport; from specfleet.trace_context import call_span;"
        "print(call_span(object()).headers, 'opentelemetry' in sys.modules)"
    )
    assert python(program).split() == ["()", "False"]


def test_importing_the_package_alone_loads_no_grpc() -> None:
    assert "grpc" not in python("import specfleet, sys; print(*sorted(sys.modules))").split()


def test_every_public_name_is_there() -> None:
    assert [name for name in specfleet.__all__ if getattr(specfleet, name, None) is None] == []
    with pytest.raises(AttributeError, match=r"has no attribute 'Clients'; it has .*Client"):
        specfleet.Clients  # noqa: B018
