"""Pages of panels as Grafana reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["KUBERNETES", "RAY", "Dashboard", "Panel", "Source", "page"]

_DATA = {"type": "prometheus", "uid": "$source"}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
_OURS = re.compile(r"\b(?=(?:specfleet|spec_decode|process)_)")

Unit = Literal["short", "reqps", "percentunit", "ops", "s", "bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture: lines by what is written beside them. `FLEET` in an expression stands for the chosen fleet."""

    title: str
    about: str
    lines: Mapping[str, str]
    unit: Unit = "short"
    is_stacked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page; two panels a row."""

    name: str
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a Prometheus has its series from: what their names begin with, what chooses a fleet among them, and the
    variables for that, each with its label and its query."""

    name: str
    prefix: str
    fleet: str
    variables: Sequence[tuple[str, str, str]]

    def expression(self, written: str) -> str:
        """For these series."""
        return _OURS.sub(self.prefix, written).replace("FLEET", self.fleet)


KUBERNETES = Source(
    name="specfleet",
    prefix="",
    fleet='namespace=~"$namespace",service=~"$service"',
    variables=[
        ("namespace", "Namespace", "label_values(specfleet_rounds_total, namespace)"),
        ("service", "Fleet", 'label_values(specfleet_rounds_total{namespace=~"$namespace"}, service)'),
    ],
)
"""Routers that Prometheus reads itself, as the chart's ServiceMonitor has it."""
RAY = Source(
    name="specfleet-ray",
    prefix="ray_",
    fleet='SessionName=~"$session"',
    variables=[("session", "Ray session", "label_values(ray_specfleet_rounds_total, SessionName)")],
)
"""Ray's nodes, for a fleet that runs on Ray."""


def page(dashboard: Dashboard, source: Source) -> dict[str, Any]:
    """As Grafana's JSON."""
    return {
        "uid": f"{source.name}-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["specfleet"],
        "editable": False,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"},
                *(_variable(*variable) for variable in source.variables),
            ]
        },
        "panels": [_panel(number, panel, source) for number, panel in enumerate(dashboard.panels)],
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATA,
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel, source: Source) -> dict[str, Any]:
    drawn = {"stacking": {"mode": "normal"}, "fillOpacity": 40} if panel.is_stacked else {"fillOpacity": 10}
    place = number * _WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATA,
        "gridPos": {"x": place % _COLUMNS, "y": place // _COLUMNS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": drawn}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": source.expression(expression), "legendFormat": legend}
            for at, (legend, expression) in enumerate(panel.lines.items())
        ],
    }
