"""What Ray's metrics have of a fleet, seen by a real Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from helm.grafana import RAY
from tests.monitoring import documented
from tests.monitoring.panels import panels
from tests.monitoring.prometheus import Prometheus, prometheus, reads
from tests.monitoring.scene import Exported

__all__ = ["check_on_ray", "metrics_port"]

_MOVES = re.compile(r"process_(resident_memory|virtual_memory|cpu_seconds|open_fds)")
"""What is another value whenever one looks."""


def metrics_port(session: Path) -> int:
    """Where Ray's one node tells its metrics."""
    (file,) = session.glob("metrics_export_port_*")
    return int(file.read_text())


async def check_on_ray(port: int, router: Callable[[], str], workers: Collection[str], folder: Path) -> None:
    """All that the router counts is there, as it is; every worker is; and every panel shows what there is."""
    async with prometheus(folder, [reads(f"127.0.0.1:{port}")], every="1s") as server:

        async def differences() -> list[str]:
            counted = Exported(router())
            found: dict[str, list[tuple[dict[str, str], float]]] = {}
            for series in await server.query('{__name__=~"ray_(specfleet|spec_decode|process)_.+"}'):
                labels = dict(series["metric"])
                found.setdefault(labels.pop("__name__"), []).append((labels, float(series["value"][1])))
            return [
                f"{name}{labels}"
                for name, labels, value in counted.samples()
                if not _MOVES.match(name)
                and not any(labels.items() <= has.items() and value == of for has, of in found.get(f"ray_{name}", []))
            ]

        async def is_told() -> bool:
            missing[:] = await differences()
            return not missing

        missing: list[str] = []
        await server.until(is_told, lambda: f"Ray does not tell {missing}")
        await server.until(lambda: _have_joined(server, workers), lambda: f"not all of {workers} have joined")
        of_workers = await server.query('group by (__name__) ({__name__=~"ray_specfleet_worker_.+"})')
        assert {series["metric"]["__name__"] for series in of_workers} == documented.on_ray()
        counted = {f"ray_{name}" for name, _, _ in Exported(router()).samples()}
        pages = panels(RAY, {"session": ".*"}, interval="10s")
        await server.shows({where: of for where, of in pages.items() if _names(of) <= counted})


async def _have_joined(server: Prometheus, workers: Collection[str]) -> bool:
    """And nobody else is told of, nor a process that has gone."""
    phases = await server.query("ray_specfleet_worker_phase")
    memory = await server.query("ray_specfleet_worker_resident_memory_bytes > 1e6")
    told = sorted((phase["metric"]["worker"], phase["metric"]["phase"]) for phase in phases)
    return told == sorted((worker, "joined") for worker in workers) and len(memory) == len(workers)


def _names(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))
