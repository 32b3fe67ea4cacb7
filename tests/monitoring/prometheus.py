"""A real Prometheus that reads what it is told to, as often as it can."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.router.valkey import free_port

__all__ = ["Prometheus", "program", "prometheus", "reads"]

PATIENCE_S = 60.0
HINT = "it comes with Debian's package prometheus (apt-get install prometheus)"


def program(name: str) -> str:
    """Where it is; the test is skipped where it is not."""
    if (found := shutil.which(name)) is None:
        pytest.skip(f"no {name} here; {HINT}")
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now; an error of the query is an error of the test."""
        answer = (await self._client.get("/api/v1/query", params={"query": expression})).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    async def rules(self) -> list[dict[str, Any]]:
        """All rules that it evaluates."""
        groups = (await self._client.get("/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def shows(self, expressions: Mapping[str, str]) -> None:
        """Returns when each of these, by what it is called, gives something."""
        silent = set(expressions)

        async def are_shown() -> bool:
            for name in sorted(silent):
                if await self.query(expressions[name]):
                    silent.discard(name)
            return not silent

        await self.until(are_shown, lambda: f"nothing is shown by {sorted(silent)}")

    async def until(self, is_so: Callable[[], Awaitable[object]], what: Callable[[], object]) -> None:
        """Returns when it is so; `what` says what is missing where it never is."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not await is_so():
            assert time.monotonic() < deadline_s, f"within {PATIENCE_S:.0f} s: {what()}"
            await asyncio.sleep(0.1)


def reads(target: str, **labels: str) -> Mapping[str, Any]:
    """A scrape configuration for one target."""
    return {"job_name": "specfleet", "static_configs": [{"targets": [target], "labels": labels}]}


@asynccontextmanager
async def prometheus(
    folder: Path, targets: Sequence[Mapping[str, Any]], *, every: str = "250ms", rules: Sequence[Path] = ()
) -> AsyncIterator[Prometheus]:
    """Reads these scrape configurations' targets; ends with the block."""
    config = folder / "prometheus.yml"
    times = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    config.write_text(json.dumps({"global": times, "rule_files": list(map(str, rules)), "scrape_configs": targets}))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # starting takes no time
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_S) as client:
            started = Prometheus(client)

            async def is_ready() -> bool:
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                try:
                    return (await client.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await started.until(is_ready, lambda: (folder / "prometheus.log").read_text())
            yield started
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, PATIENCE_S)
