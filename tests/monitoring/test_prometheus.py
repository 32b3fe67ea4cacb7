"""A real Prometheus reads a fleet that works, and every panel of every dashboard has something to show."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from helm.grafana import KUBERNETES
from tests.engine.checkpoints import write_checkpoint
from tests.monitoring.alert_rules import alerts_file
from tests.monitoring.panels import panels
from tests.monitoring.prometheus import Prometheus, program, prometheus, reads
from tests.monitoring.scene import fleet_of, keep_busy

FLEET = {"namespace": "ns", "service": "fleet"}


def test_every_panel_has_something_to_show(tmp_path: Path) -> None:
    program("prometheus")
    folder = write_checkpoint(tmp_path / "tiny", "llama", max_position_embeddings=2048)
    asked = panels(KUBERNETES, FLEET, interval="10s")
    assert len(asked) > 60

    async def scene() -> None:
        async with fleet_of(folder) as fleet:
            target = reads(f"127.0.0.1:{fleet.http_port}", **FLEET, pod="router-0")
            async with prometheus(tmp_path, [target], rules=[alerts_file(tmp_path)]) as server:
                load = asyncio.create_task(keep_busy(fleet))
                try:
                    await server.shows(asked)
                    await server.until(lambda: _are_evaluated(server), lambda: "no rule was evaluated")
                finally:
                    load.cancel()
                    with suppress(asyncio.CancelledError):
                        await load

    asyncio.run(scene())


async def _are_evaluated(server: Prometheus) -> bool:
    rules = await server.rules()
    assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
    return len(rules) > 20 and all(rule["health"] == "ok" for rule in rules)
