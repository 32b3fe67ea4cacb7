"""Writes the chart's values.schema.json from `helm/values.py`: `python -m helm.schema`; `--check` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helm.values import ChartValues

__all__ = ["FILE", "main", "schema_text"]

FILE = Path(__file__).parent / "specfleet" / "values.schema.json"


def schema_text() -> str:
    """The schema as the file holds it."""
    found = ChartValues.model_json_schema(by_alias=True)
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # Helm hands these down to charts and subcharts on its own account.
    for values in (found, found["$defs"]["Store"]):
        values["properties"]["global"] = {"type": "object"}
    return json.dumps(_plain(found), indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where `--check` finds the file to be another."""
    parser = argparse.ArgumentParser(prog="python -m helm.schema", description="Write the chart's values.schema.json.")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where the file is not up to date")
    options = parser.parse_args(arguments)
    if not options.check:
        FILE.write_text(schema_text(), encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != schema_text():
        print(f"{FILE.name} is not what helm/values.py says; `python -m helm.schema` writes it", file=sys.stderr)
        return 1
    return 0


def _plain(node: Any) -> Any:
    """Without titles, which only make the error messages of helm longer, and defaults, which values.yaml has.

    Of a name that does not fit its pattern helm tells where it is, and by `propertyNames` what the pattern is.
    """
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    named = {
        key: {name: _plain(inner) for name, inner in node[key].items()}
        for key in ("properties", "$defs")
        if key in node
    }
    closed: dict[str, Any] = {}
    for pattern in node.get("patternProperties", ()):
        closed = {"additionalProperties": False, "propertyNames": {"pattern": pattern}}
    return {key: _plain(value) for key, value in node.items() if key not in ("title", "default")} | named | closed


if __name__ == "__main__":
    sys.exit(main())
