"""Closed by default: what a fleet refuses before it listens where other machines reach it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_settings import needs_token, settle_environment
from contracts.config import load_config
from contracts.config.security import is_loopback
from contracts.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[2]
ENGINE = "engine: {model: m}\n"


def test_who_reaches_an_address() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.0.1", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.7", "gpu-1", "127.evil.example", "127"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gpu-1", "127.evil.example"])
def test_other_machines_reach_a_fleet_only_with_certificates_and_keys_or_by_explicit_word(host: str) -> None:
    open_to_all = f"{ENGINE}router: {{host: '{host}'}}\n"
    with pytest.raises(
        ConfigError, match=r"security\.tls is off and security\.api_keys is off; make .*specfleet certs"
    ):
        load_config(open_to_all)
    with pytest.raises(ConfigError, match=r"and security\.api_keys is off; make"):
        load_config(open_to_all + "security: {tls: certs}")
    with pytest.raises(ConfigError, match=r"and security\.tls is off; make"):
        load_config(open_to_all + "security: {api_keys: keys.json}")
    for right in ("tls: certs, api_keys: keys.json", "insecure: true"):
        assert load_config(f"{open_to_all}security: {{{right}}}").router.host == host


def test_a_fleet_on_this_machine_alone_needs_neither() -> None:
    assert load_config(ENGINE).security.tls_of("router") is None
    assert load_config(f"{ENGINE}router: {{host: '::1'}}").security.keys_file is None


def test_a_router_that_would_be_open_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(f"{ENGINE}router: {{host: 0.0.0.0, grpc_port: 0, http_port: 0}}\n")
    command = [sys.executable, "-m", "router", "--config", str(file)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "router.host is '0.0.0.0', which other machines may reach, and security.tls is off" in done.stderr


def test_the_command_needs_a_key_of_its_own_where_keys_alone_close_the_router(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("engine: {model: some/model}\nsecurity: {api_keys: keys.json}\n")
    command = [sys.executable, "-m", "cluster", "up", "-c", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "SPECFLEET_API_KEY"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "it must be in SPECFLEET_API_KEY" in done.stderr


def test_a_store_address_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(f"{ENGINE}store: {{url: 'redis://user:hunter2@host:port with spaces'}}")
    assert "redis://***@host" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_ray_elsewhere_must_ask_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs_token("10.0.0.7:6379", is_insecure=False)
    assert not any(needs_token(address, is_insecure=False) for address in (None, "127.0.0.1:6379"))
    assert not needs_token("10.0.0.7:6379", is_insecure=True)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS_SKIP_REGEX"):
        monkeypatch.setenv(name, "")  # so that they are put back
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match=r"RAY_AUTH_MODE is 'disabled' .* it must be token"):
        settle_environment(is_local=False, needs_token=True)
    settle_environment(is_local=False)
