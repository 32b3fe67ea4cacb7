"""The expressions of all dashboards as Grafana would send them, for one fleet."""

from __future__ import annotations

import json
from collections.abc import Mapping

from helm import dashboards
from helm.grafana import Source

__all__ = ["panels"]


def panels(source: Source, chosen: Mapping[str, str], *, interval: str) -> dict[str, str]:
    """By where each one stands. `chosen` are values of the page's variables."""
    variables = {"$__rate_interval": interval, **{f"${name}": value for name, value in chosen.items()}}
    found: dict[str, str] = {}
    for name, content in dashboards.files(source):
        for panel in json.loads(content)["panels"]:
            for target in panel["targets"]:
                expression: str = target["expr"]
                for variable, value in variables.items():
                    expression = expression.replace(variable, value)
                found[f"{name}: {panel['title']}: {target['legendFormat']}"] = expression
    return found
