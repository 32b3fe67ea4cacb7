"""Every key of a fleet's file as Markdown, read from the config tree itself, so that the page cannot say otherwise."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic.fields import FieldInfo

from contracts.config.errors import Path, right_value, schema_at
from contracts.config.fields import ConfigModel
from contracts.config.fleet import FleetConfig

__all__ = ["reference"]

_HEAD = "| key | allowed | default | meaning |\n|---|---|---|---|\n"


def reference() -> str:
    """A heading and a table for each section of the file, and the rules that hold over several keys."""
    return "\n".join(_sections(FleetConfig, "", (), {}))


def _sections(part: type[ConfigModel], title: str, path: Path, told: dict[type[ConfigModel], str]) -> Iterator[str]:
    """This part of the tree, then those below it; a part that was told before is named where it comes again."""
    told[part] = title
    rows, below = list[str](), list[tuple[type[ConfigModel], str, Path]]()
    for name, field in part.model_fields.items():
        found = _part_of(field.annotation)
        if found is None:
            rows.append(_row(name, field, (*path, name)))
        elif found[0] in told:
            rows.append(f"| `{name}` | the keys of `{told[found[0]]}` | none | {field.description} |")
        else:
            below.append((found[0], f"{title}.{name}{found[1]}".lstrip("."), (*path, name, *found[2])))
    if title:
        yield f"## {title}\n\n{inspect.getdoc(part)}\n"
    if rows:
        yield _HEAD + "".join(f"{row}\n" for row in rows)
    yield from (f"{rule}\n" for rule in _rules(part))
    for each in below:
        yield from _sections(*each, told)


def _part_of(annotation: object) -> tuple[type[ConfigModel], str, Path] | None:
    """The part of the tree that a key holds, how it is written below the key, and where its schema is."""
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        return annotation, "", ()
    for argument in get_args(annotation):
        if found := _part_of(argument):
            part, suffix, path = found
            if get_origin(annotation) is dict:
                return part, f".NAME{suffix}", ("NAME", *path)
            if get_origin(annotation) is list:
                return part, f"[]{suffix}", (0, *path)
            return found
    return None


def _row(name: str, field: FieldInfo, path: Path) -> str:
    schema = FleetConfig.model_json_schema()
    allowed = right_value(schema_at(schema, path), schema).replace("|", "\\|")
    return f"| `{name}` | {allowed} | {_default(field)} | {field.description} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    match field.default:
        case None:
            return "none"
        case str(text):
            return f"`{text}`"
        case value:
            return f"`{json.dumps(value)}`"


def _rules(part: type[ConfigModel]) -> Iterator[str]:
    for validator in part.__pydantic_decorators__.model_validators.values():
        yield inspect.cleandoc(validator.func.__doc__ or "")
