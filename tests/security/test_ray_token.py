"""A Ray on other machines is given orders only if it asks for a token."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from cluster.ray_settings import check_asks_for_token
from contracts.errors import ConfigError, Unavailable
from tests.router.valkey import free_port


def test_a_ray_that_asks_nobody_for_a_token_is_refused(tmp_path: Path) -> None:
    """Ray's own server of orders, which is what anyone who reaches a cluster talks to."""
    refusal = r"takes orders from whoever reaches it; .* RAY_AUTH_MODE=token"
    with _gcs(tmp_path / "open", RAY_AUTH_MODE="disabled") as address, pytest.raises(ConfigError, match=refusal):
        check_asks_for_token(address)
    with _gcs(tmp_path / "closed", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789" * 4) as address:
        check_asks_for_token(address)


def test_a_ray_that_does_not_answer_yet_is_not_called_open() -> None:
    with pytest.raises(Unavailable, match=r"does not say whether it asks for a token: UNAVAILABLE"):
        check_asks_for_token(f"127.0.0.1:{free_port()}")


@contextmanager
def _gcs(folder: Path, **environment: str) -> Iterator[str]:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    folder.mkdir()
    port = free_port()
    arguments = [f"--log_dir={folder}", f"--gcs_server_port={port}", "--node-ip-address=127.0.0.1", "--session-name=s"]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [program, *arguments, "--config_list=e30="], env={**os.environ, **environment}, stdout=out, stderr=out
        )
    try:
        deadline_s = time.monotonic() + 30.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "out").read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
