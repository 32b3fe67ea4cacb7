"""The tables of docs/monitoring.md: what an operator is told that there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE", "Documented", "alerts", "metrics", "on_ray"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) ?\| (.+) \|$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """A metric as its row has it."""

    type: str
    labels: frozenset[str]


def metrics() -> dict[str, Documented]:
    """What routers export, by name."""
    return {name: of for name, of in _rows().items() if not name.startswith("ray_")}


def on_ray() -> set[str]:
    """What Ray's metrics have besides."""
    return {name for name in _rows() if name.startswith("ray_")}


def alerts() -> list[str]:
    """In the order of the page."""
    return re.findall(r"^\| `(Specfleet\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _rows() -> dict[str, Documented]:
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    found = {
        name: Documented(type=kind, labels=frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
    }
    assert len(found) == len(rows), "a metric has two rows"
    return found
