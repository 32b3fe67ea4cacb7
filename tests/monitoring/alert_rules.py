"""The chart's alerts with the objectives of its values, as Prometheus takes them."""

from __future__ import annotations

from pathlib import Path

import yaml

__all__ = ["CHART", "alerts_file"]

CHART = Path(__file__).resolve().parents[2] / "helm" / "specfleet"


def alerts_file(folder: Path) -> Path:
    """`alerts.yaml` in this folder."""
    objectives = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["objectives"]
    text = (CHART / "alerts.yaml").read_text()
    text = text.replace("TIME_TO_FIRST_TOKEN_S", str(objectives["timeToFirstTokenSeconds"]))
    text = text.replace("TIME_PER_OUTPUT_TOKEN_S", str(objectives["timePerOutputTokenSeconds"]))
    file = folder / "alerts.yaml"
    file.write_text(text)
    return file
