"""API keys: what the file holds, who gets in, and how a router learns of changes."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contracts.clock import VirtualClock
from contracts.errors import ConfigError, PermissionDenied, Unauthenticated
from contracts.types import TenantId
from router.security.caller import NOBODY
from router.security.gate import ADMIN, FLEET, INFERENCE, METRICS, Gate
from router.security.keyring import KeyRing
from specfleet.cli.app import app
from specfleet.errors import InvalidRequest
from specfleet.keys import KeyFile, read_keys, write_keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def keys(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)])


def add(file: Path, name: str, *arguments: str) -> str:
    done = keys("add", file, name, *arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def gate_of(file: Path) -> Gate:
    return Gate(KeyRing(file, VirtualClock()))


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_a_key_is_shown_once_and_kept_as_its_hash(file: Path) -> None:
    key = add(file, "alice", "--tenant", "acme")
    assert key != add(file, "bob")
    assert len(key) > 40, "256 bits"
    content = file.read_text()
    assert key not in content
    assert hashlib.sha256(key.encode()).hexdigest() in content
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = keys("list", file).stdout
    assert "alice" in shown
    assert "acme" in shown
    assert key not in shown
    assert hashlib.sha256(key.encode()).hexdigest() not in shown


def test_commands_refuse_what_makes_no_sense(file: Path) -> None:
    add(file, "alice")
    for arguments, code, words in (
        (("add", file, "alice"), 2, "has a key 'alice' already"),
        (("add", file, "Bob"), 2, "name is 'Bob'; it must be 1 to 63 of the characters"),
        (("add", file, "bob", "--role", "root"), 2, "roles is ('root',); it must be some of client, admin, metrics"),
        (("revoke", file, "bob"), 1, "has no key 'bob'; its keys are alice"),
        (("limit", file, "acme"), 1, "has no key of tenant 'acme'"),
        (("limit", file, "default", "--max-concurrent", "-1"), 2, "max_concurrent is -1; it must be an integer from 0"),
        (("list", file.parent / "none.json"), 2, "none.json cannot be read: No such file"),
    ):
        done = keys(*arguments)
        assert (done.exit_code, words in done.stderr) == (code, True), done.stderr
    assert [key.name for key in read_keys(file).keys] == ["alice"]


def test_a_file_that_nobody_could_read_again_is_not_written(file: Path) -> None:
    add(file, "alice")
    before = file.read_bytes()
    key = read_keys(file).keys[0]
    with pytest.raises(InvalidRequest, match="would hold 10001 keys; it may hold 10000"):
        write_keys(file, KeyFile(keys=(key,) * 10_001))
    assert file.read_bytes() == before


def test_the_key_decides_the_tenant_and_its_roles_what_it_opens(file: Path) -> None:
    client = add(file, "client", "--tenant", "acme")
    admin = add(file, "admin", "--tenant", "ops", "--role", "admin")
    metrics = add(file, "metrics", "--tenant", "ops", "--role", "metrics")
    gate = gate_of(file)
    assert gate.enter_grpc(INFERENCE, None, bearer(client)).tenant == "acme"
    assert gate.enter_grpc(INFERENCE, "client", f"bearer  {client}").tenant == "acme"
    assert gate.enter_http(INFERENCE, bearer(admin)).tenant == "ops"
    for service, key in ((ADMIN, admin), (METRICS, admin), (METRICS, metrics)):
        enter = (
            gate.enter_grpc(service, None, bearer(key)) if service == ADMIN else gate.enter_http(service, bearer(key))
        )
        assert enter.key in ("admin", "metrics")
    for service, key in ((ADMIN, client), (ADMIN, metrics), (INFERENCE, metrics), (METRICS, client)):
        with pytest.raises(PermissionDenied):
            gate.enter_grpc(service, None, bearer(key))
    with pytest.raises(PermissionDenied, match="Admin is for admins"):
        gate.enter_grpc(ADMIN, None, "")
    assert gate.enter_grpc(ADMIN, "admin", "").tenant == NOBODY, "a certificate is enough"
    assert gate.enter_grpc(ADMIN, "client", bearer(admin)).tenant == "ops", "and so is a key"


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", "Bearer nobody", "Basic {key}", "{key}", "Bearer {key}x"])
def test_who_shows_no_key_or_a_wrong_one_is_turned_away_and_the_key_is_not_repeated(file: Path, sent: str) -> None:
    key = add(file, "alice")
    with pytest.raises(Unauthenticated, match="authorization: Bearer KEY") as refused:
        gate_of(file).enter_http(INFERENCE, sent.format(key=key))
    assert "nobody" not in str(refused.value)
    assert key not in str(refused.value)
    with pytest.raises(Unauthenticated):
        gate_of(file).enter_grpc(INFERENCE, "client", sent.format(key=key))


def test_without_keys_all_are_one_tenant_and_services_that_nobody_named_are_closed() -> None:
    gate = Gate()
    assert gate.enter_grpc(INFERENCE, None, "Bearer whatever").tenant == NOBODY
    assert gate.enter_grpc(FLEET, None, "").tenant == NOBODY
    assert gate.enter_grpc(ADMIN, None, "").tenant == NOBODY
    with pytest.raises(PermissionDenied, match="closed"):
        gate.enter_grpc("specfleet.v1.Debug", None, "")


def test_a_router_learns_of_new_keys_revoked_ones_and_limits(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    alice = add(file, "alice", "--tenant", "acme")
    ring = KeyRing(file, VirtualClock())
    assert ring.find(alice) is not None
    bob = add(file, "bob", "--tenant", "bobs")
    assert ring.find(bob) is not None
    assert ring.has_many_tenants
    keys("limit", file, "acme", "--requests-per-minute", "7")
    assert ring.limits(TenantId("acme")).requests_per_minute == 7
    assert keys("revoke", file, "alice").exit_code == 0
    assert ring.find(alice) is None
    content = file.read_text()
    file.write_text("half writ")
    assert ring.find(bob) is not None, "what makes no sense changes nothing"
    assert "the API keys stay as they were" in caplog.text
    file.write_text(content)
    assert ring.find(alice) is None


def test_a_key_holds_until_it_expires(file: Path) -> None:
    key = add(file, "alice", "--days", "1")
    known = read_keys(file)
    (found,) = known.keys
    moment = 0.0
    assert known.find(key, moment) == found
    assert known.find(key, moment + 10**10) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version is 2; it must be 1"),
        ({"more": 1}, "the file is 'with more'"),
        ({"keys": {}}, "keys is "),
        ({"keys": [{}]}, "a key is 'without hash, name, roles, tenant'"),
        (
            {"keys": [{"name": "a", "tenant": "t", "roles": ["client"], "hash": "sfk_secret"}]},
            "hash of key a is no SHA",
        ),
        ({"keys": [{"name": "a", "tenant": "../x", "roles": ["client"], "hash": "0" * 64}]}, "tenant is '../x'"),
        ({"keys": [{"name": "a", "tenant": "t", "roles": "client", "hash": "0" * 64}]}, "roles is 'client'"),
        ({"tenants": {"t": {"weight": 0}}}, "weight is 0; it must be an integer from 1"),
        ({"tenants": {"t": {"max_concurrent": True}}}, "max_concurrent is True"),
    ],
)
def test_a_file_is_refused_with_what_is_wrong(file: Path, change: dict[str, object], words: str) -> None:
    file.write_text(json.dumps({"version": 1, "keys": [], "tenants": {}} | change))
    with pytest.raises(InvalidRequest) as refused:
        read_keys(file)
    assert words in str(refused.value)
    assert "sfk_secret" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"security\.api_keys: "):
        KeyRing(file, VirtualClock())
