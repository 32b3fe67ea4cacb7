"""Secrets stay where they belong: in files of their owner and in memory, never in process lists, logs or answers."""

from __future__ import annotations

import os
import re
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from specfleet import Admin, Client
from specfleet.cli.app import app
from specfleet.errors import SpecfleetClientError
from specfleet.keys import hash_of, new_key

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


def test_keys_and_private_keys_are_in_no_process_list_no_log_and_no_metric(ours: Path, tmp_path: Path) -> None:
    """A router, a client of it by the SDK, by HTTP and one by the command line; with right keys and wrong ones."""
    keys = tmp_path / "keys.json"
    right = CliRunner().invoke(app, ["keys", "add", str(keys), "ops", "--role", "admin"]).stdout.strip()
    private = (ours / "router" / "tls.key").read_text().splitlines()[1]
    secrets = {right, hash_of(right), private, wrong := new_key()}
    with _router(tmp_path, f"security: {{tls: '{ours}', api_keys: '{keys}'}}") as (port, log, process):
        address = f"127.0.0.1:{port}"
        seen = [_arguments()]
        for key in (right, wrong):
            with (
                Client(address, tls=ours / "client", api_key=key, timeout_s=DEADLINE_S) as client,
                pytest.raises(SpecfleetClientError) as refused,
            ):
                client.complete("hello")
            seen.append(str(refused.value))
        with Admin(address, tls=ours / "client", api_key=right, timeout_s=DEADLINE_S) as admin:
            seen.append(str(admin.status()))
        http = re.search(r"HTTP on (127\.0\.0\.1:\d+)", log.read_text())
        assert http is not None, log.read_text()
        trusted = ssl.create_default_context(cafile=str(ours / "client" / "ca.crt"))
        with httpx.Client(base_url=f"https://{http[1]}", verify=trusted, timeout=DEADLINE_S) as web:
            for key in (right, wrong):
                web.get(f"/{right}?key={wrong}")  # whoever puts it there is told so, but nobody else
                for path in ("/metrics", "/v1/models"):
                    answer = web.get(path, headers={"authorization": f"Bearer {key}"})
                    seen.append(answer.text + str(answer.headers))
            assert "specfleet_" in web.get("/metrics", headers={"authorization": f"Bearer {right}"}).text
        for found in _command(address, ours, {"SPECFLEET_API_KEY": right}):
            seen.append(found)
        (file := tmp_path / "key").write_text(f"{wrong}\n")
        for found in _command(address, ours, {"SPECFLEET_API_KEY_FILE": str(file)}):
            seen.append(found)
        process.terminate()
        process.wait(DEADLINE_S)
        seen.append(log.read_text())
    assert "router serves gRPC" in seen[-1]
    assert '"process": "router"' in seen[-1], "as programs read it"
    assert any("-m router" in text for text in seen), "the process list is what it seems"
    for text in seen:
        assert not [secret for secret in secrets if secret in text]


def test_no_option_takes_a_secret() -> None:
    """An argument is read by whoever lists processes."""
    helps = [
        CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout for name in ("generate", "status")
    ]
    options = {option for text in helps for option in re.findall(r"--[a-z-]+", text)}
    assert {"--api-key-file", "--tls"} <= options
    assert not {"--api-key", "--key", "--password", "--token"} & options


def test_files_with_secrets_are_their_owners_alone(ours: Path) -> None:
    keys = list(ours.rglob("tls.key"))
    assert len(keys) >= 5
    assert {stat.S_IMODE(file.stat().st_mode) for file in keys} == {0o600}


@contextmanager
def _router(folder: Path, security: str) -> Iterator[tuple[int, Path, subprocess.Popen[bytes]]]:
    file, log = folder / "fleet.yaml", folder / "router.log"
    router = "router: {host: 127.0.0.1, grpc_port: 0, http_port: 0}"
    file.write_text(f"engine: {{model: m}}\nstore: {{url: memory}}\n{router}\n{security}\n")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "router", "--config", str(file)],
            cwd=CHECKOUT,
            env={**os.environ, "SPECFLEET_LOG": "json"},
            stdout=out,
            stderr=out,
        )
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while (found := re.search(r"gRPC on 127\.0\.0\.1:(\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield int(found[1]), log, process
    finally:
        process.kill()
        process.wait()


def _command(address: str, certificates: Path, secret: dict[str, str]) -> Iterator[str]:
    """What the process list shows while the command runs, and then what it says."""
    command = [sys.executable, "-m", "specfleet.cli", "status", "--address", address]
    running = subprocess.Popen(
        [*command, "--tls", str(certificates / "client")],
        cwd=CHECKOUT,
        env={**os.environ, **secret},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with running:
        while running.poll() is None:
            yield _arguments()
            time.sleep(0.1)
        assert running.stdout is not None
        yield running.stdout.read().decode()


def _arguments() -> str:
    """The arguments of every process of this machine, as `ps` shows them to everyone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return "\n".join(found)
