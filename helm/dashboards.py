"""Writes the chart's Grafana dashboards: `python -m helm.dashboards`; `--check` only compares.

A panel is a line of code. What it shows is made of the names that `router/metrics.py` exports, which a test compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["DASHBOARDS", "FOLDER", "Dashboard", "Panel", "files", "main"]

FOLDER = Path(__file__).parent / "specfleet" / "dashboards"
_FLEET = 'namespace=~"$namespace",service=~"$service"'
_SOURCE = {"type": "prometheus", "uid": "$source"}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24

Unit = Literal["short", "reqps", "percentunit", "ops", "s"]


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


def _rate(name: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({name}{{FLEET}}[$__rate_interval]))"


_ACCEPTED, _DRAFTED = "spec_decode_num_accepted_tokens_total", "spec_decode_num_draft_tokens_total"
_DRAFTS, _TOKENS, _ROUNDS = "spec_decode_num_drafts_total", "specfleet_tokens_total", "specfleet_rounds_total"

_LENGTH = Panel(
    title="Acceptance length",
    about="Tokens that a sequence gains from a pass with drafts: its accepted ones, and the target's own.",
    lines={"tokens a pass": f"1 + {_rate(_ACCEPTED)} / {_rate(_DRAFTS)}"},
)
_TOKENS_S = Panel(title="Tokens a second", about="Committed.", lines={"tokens": _rate(_TOKENS)}, unit="ops")
_IDLE = Panel(
    title="Verifier idle",
    about="Part of its time in which the verifier has no round. High while requests run: it waits for drafts.",
    lines={"idle": "max(specfleet_verifier_idle_share{FLEET})"},
    unit="percentunit",
)

DASHBOARDS = (
    Dashboard(
        name="overview",
        title="specfleet: overview",
        panels=[
            Panel(
                title="Requests",
                about="That run and that wait.",
                lines={
                    "running": "sum(num_requests_running{FLEET})",
                    "waiting": "sum(num_requests_waiting{FLEET})",
                },
            ),
            _TOKENS_S,
            _LENGTH,
            _IDLE,
            Panel(
                title="Requests a second",
                about="Let in.",
                lines={"requests": _rate("specfleet_requests_total")},
                unit="reqps",
            ),
            Panel(
                title="Router busy",
                about="Part of its one thread. Above 0.8 rounds wait for it.",
                lines={"{{pod}}": "max by (pod) (rate(specfleet_router_busy_seconds_total{FLEET}[$__rate_interval]))"},
                unit="percentunit",
            ),
        ],
    ),
    Dashboard(
        name="speculation",
        title="specfleet: speculation",
        panels=[
            _LENGTH,
            Panel(
                title="Frontiers",
                about="Passes of sequences by how many draft nodes they checked. 0: decoding without drafts.",
                lines={"{{nodes}}": _rate("specfleet_rounds_by_frontier_total", "nodes")},
                unit="ops",
                is_stacked=True,
            ),
            Panel(
                title="Accepted by position",
                about="Of drafts, the tokens at each position that the target took too.",
                lines={"{{position}}": _rate("spec_decode_num_accepted_tokens_per_pos_total", "position")},
                unit="ops",
            ),
            Panel(
                title="Rounds",
                about="Target passes; and those that the verifier began by itself, before it was asked.",
                lines={"all": _rate(_ROUNDS), "unasked": _rate("specfleet_rounds_unasked_total")},
                unit="ops",
            ),
            Panel(
                title="Rows pruned",
                about="Rows that left a pass early, since nothing would have come of them.",
                lines={"rows": _rate("specfleet_rows_pruned_total")},
                unit="ops",
            ),
            _IDLE,
        ],
    ),
    Dashboard(
        name="drafters",
        title="specfleet: drafters",
        panels=[
            Panel(
                title="Accepted tokens a second",
                about="What each drafter gives.",
                lines={"{{drafter}}": _rate(_ACCEPTED, "drafter")},
                unit="ops",
                is_stacked=True,
            ),
            Panel(
                title="Acceptance",
                about="Of the draft tokens that were checked, those that the target took.",
                lines={"{{drafter}}": f"{_rate(_ACCEPTED, 'drafter')} / {_rate(_DRAFTED, 'drafter')}"},
                unit="percentunit",
            ),
            Panel(
                title="Checked tokens a second",
                about="What each drafter costs the verifier in rows.",
                lines={"{{drafter}}": _rate(_DRAFTED, "drafter")},
                unit="ops",
                is_stacked=True,
            ),
            Panel(
                title="Accepted tokens a second by kind",
                about="What each kind of drafter gives.",
                lines={"{{kind}}": _rate(_ACCEPTED, "kind")},
                unit="ops",
                is_stacked=True,
            ),
        ],
    ),
    Dashboard(
        name="reliability",
        title="specfleet: reliability",
        panels=[
            Panel(
                title="Sequences started again",
                about="Because the verifier was lost. Their texts are the same.",
                lines={"sequences": "sum(increase(specfleet_restarts_total{FLEET}[$__rate_interval]))"},
            ),
            Panel(
                title="Stale messages",
                about="From an epoch that is over; dropped.",
                lines={"messages": _rate("specfleet_stale_messages_total")},
                unit="ops",
            ),
            Panel(
                title="Routers that answer Prometheus",
                about="One of them leads.",
                lines={"routers": "count(specfleet_rounds_total{FLEET})"},
            ),
            Panel(
                title="Waiting requests",
                about="Beyond router.max_waiting they are refused.",
                lines={"waiting": "sum(num_requests_waiting{FLEET})"},
            ),
            _TOKENS_S,
        ],
    ),
)


def files() -> Iterator[tuple[str, str]]:
    """Name and content of each file."""
    for dashboard in DASHBOARDS:
        yield f"{dashboard.name}.json", json.dumps(_page(dashboard), indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where `--check` finds a file to be another."""
    parser = argparse.ArgumentParser(prog="python -m helm.dashboards", description="Write the chart's dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a file is not up to date")
    options = parser.parse_args(arguments)
    wanted = dict(files())
    found = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    if not options.check:
        for name in found.keys() - wanted.keys():
            (FOLDER / name).unlink()
        for name, content in wanted.items():
            (FOLDER / name).write_text(content, encoding="utf-8")
    elif found != wanted:
        print("dashboards/ is not what helm/dashboards.py says; `python -m helm.dashboards` writes it", file=sys.stderr)
        return 1
    return 0


def _page(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"specfleet-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["specfleet"],
        "editable": False,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("namespace", "Namespace", "label_values(specfleet_rounds_total, namespace)"),
                _variable("service", "Fleet", 'label_values(specfleet_rounds_total{namespace=~"$namespace"}, service)'),
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    drawn = {"stacking": {"mode": "normal"}, "fillOpacity": 40} if panel.is_stacked else {"fillOpacity": 10}
    place = number * _WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"x": place % _COLUMNS, "y": place // _COLUMNS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": drawn}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression.replace("FLEET", _FLEET), "legendFormat": legend}
            for at, (legend, expression) in enumerate(panel.lines.items())
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
