"""Turns pydantic's findings into messages that name the key, the value found, and what would be right.

What would be right is read from the JSON schema of the config tree itself, so it can never disagree with the
check that failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from contracts.errors import ConfigError, shown, without_password

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]
_PLAIN = re.compile(r"[\w-]{1,64}", re.ASCII)


def config_error(name: str, found: Any, root: type[BaseModel], error: ValidationError) -> ConfigError:
    """One ConfigError for all that pydantic found wrong in `found`; a line for each key."""
    messages = findings(found, root, error.errors(include_url=False, include_context=False), whole="the file")
    return ConfigError("\n".join(f"{name}: {text}" for text in messages.values()), details=messages)


def findings(found: Any, root: type[BaseModel], items: Sequence[Mapping[str, Any]], *, whole: str) -> dict[str, str]:
    """What is wrong in `found`, by key; `whole` is what a message calls all of it."""
    schema = root.model_json_schema()
    messages: dict[str, str] = {}
    for item in items:
        path, value = _locate(found, item["loc"], schema)
        # An alternative of a union fails once for each alternative: the first line says it all.
        messages.setdefault(_dotted(path, whole), _message(path, value, item["type"], item["msg"], schema, whole))
    return messages


def _locate(found: Any, loc: Sequence[str | int], schema: Schema) -> tuple[Path, Any]:
    """The keys that a location of pydantic's names, and the value there, None for a missing one.

    Behind the keys, pydantic's location may go on with the name of the alternative that it tried; a key that is
    missing is the location's last part, below a mapping.
    """
    path: Path = ()
    for part in loc:
        node = _below(schema_at(schema, path), schema)
        if isinstance(found, dict) and ("properties" in node or "additionalProperties" in node):
            found = found.get(part)
        elif isinstance(found, list) and isinstance(part, int) and "items" in node:
            found = found[part]
        else:
            break
        path += (part,)
    return path, found


def _dotted(path: Path, whole: str) -> str:
    return ".".join(str(part) if _PLAIN.fullmatch(str(part)) else shown(part) for part in path) or whole


def _message(path: Path, value: Any, kind: str, cause: str, schema: Schema, whole: str) -> str:
    key, target = _dotted(path, whole), schema_at(schema, path)
    if kind == "extra_forbidden":
        known = sorted(_below(schema_at(schema, path[:-1]), schema).get("properties", {}))
        close = get_close_matches(str(path[-1]), known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        keys = f"Keys of {_dotted(path[:-1], whole)}: {', '.join(known)}"
        return f"{key} is not a known key (it is {shown(value)}){hint} {keys}"
    if kind == "missing":
        meaning = f" ({target.get('description', 'required')})" if path else ""
        return f"{key} is missing; it must be {right_value(target, schema)}{meaning}"
    if kind == "value_error" and "properties" in target:  # a rule over several keys, written by us
        return f"{key}: {cause.removeprefix('Value error, ')}"
    right = right_value(target, schema)
    if kind == "finite_number":  # limits say it already
        right = re.sub(r"^a number(?=$| or )", "a finite number", right)
    return f"{key} is {shown(without_password(value))}; it must be {right}"


def _resolve(node: Schema, schema: Schema) -> Schema:
    reference: str | None = node.get("$ref")
    if reference is None:
        return node
    return {**schema["$defs"][reference.removeprefix("#/$defs/")], **node}


def _below(node: Schema, schema: Schema) -> Schema:
    """Where keys below a value are looked up: of a value that may be null, its other form."""
    forms = [form for form in node.get("anyOf", ()) if form.get("type") != "null"]
    return _resolve(forms[0], schema) if len(forms) == 1 else node


def schema_at(schema: Schema, path: Path) -> Schema:
    """The schema of the value at a path; empty for one that the tree does not know."""
    node = _resolve(schema, schema)
    for part in path:
        node = _below(node, schema)
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        node = _resolve(inner or node.get("additionalProperties") or {}, schema)
    return node


def right_value(node: Schema, schema: Schema) -> str:
    """What a schema allows, in words."""
    node = _resolve(node, schema)
    if "x-right" in node:
        return str(node["x-right"])
    if "anyOf" in node:
        return " or ".join(right_value(alternative, schema) for alternative in node["anyOf"])
    if "const" in node:
        return json.dumps(node["const"])
    if "enum" in node:
        return " or ".join(f'"{choice}"' for choice in node["enum"])
    if "properties" in node:
        return f"a mapping with the keys {', '.join(sorted(node['properties']))}"
    kind = str(node.get("type"))
    return f"{_KINDS.get(kind, kind)}{_limits(node)}"


_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
}


def _limits(node: Schema) -> str:
    if "minLength" in node:
        return f" of {node['minLength']} to {node['maxLength']} characters"
    low = f" above {node['exclusiveMinimum']:g}" if "exclusiveMinimum" in node else ""
    low = f" from {node['minimum']}" if "minimum" in node else low
    return low + (f" up to {node['maximum']:.16g}" if "maximum" in node else "")
