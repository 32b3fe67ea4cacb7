"""What HTTP requests may say, as Markdown tables: read from the types that check them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["fields_of"]

_HEAD = "| field | type | default | meaning |\n|---|---|---|---|\n"


def fields_of(model: type[BaseModel], *, without: type[BaseModel] | None = None) -> str:
    """A row for each field, those of objects within it below their names."""
    schema = model.model_json_schema()
    inherited = set(without.model_fields) if without is not None else set()
    names = {name for name in schema["properties"] if name not in inherited}
    rows = [row for name in schema["properties"] if name in names for row in _rows(name, schema, schema)]
    return _HEAD + "".join(rows)


def _rows(name: str, parent: Mapping[str, Any], root: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    node = parent["properties"][name]
    default = "**required**" if name in parent.get("required", ()) else _default(node.get("default"))
    yield f"| `{prefix}{name}` | {_kind(node, root)} | {default} | {node.get('description', '')} |\n"
    for suffix, inner in _objects(node, root):
        for below in inner["properties"]:
            yield from _rows(below, inner, root, f"{prefix}{name}{suffix}.")


def _default(value: Any) -> str:
    return "" if value is None or isinstance(value, dict) else f"`{json.dumps(value)}`"


def _kind(node: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "$ref" in node:
        return "object"
    if "anyOf" in node:
        kinds = [_kind(each, root) for each in node["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in node:
        return ", ".join(f"`{choice}`" for choice in node["enum"])
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if node.get("type") == "array":
        return f"list of {_kind(node['items'], root)}"
    return str(node.get("type", "any"))


def _objects(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects that a field may hold, and how they are written behind its name."""
    if "$ref" in node:
        yield "", root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    for each in node.get("anyOf", ()):
        yield from _objects(each, root)
    if node.get("type") == "array":
        yield from ((f"[]{suffix}", inner) for suffix, inner in _objects(node["items"], root))
