"""Strict YAML: one document, the plain values of YAML 1.2, and nothing that surprises.

PyYAML's own loader follows YAML 1.1, where `on` and `no` are booleans, `1:30` is ninety and `1e-3` is text; it
lets a key repeat, the last one winning in silence, and follows aliases, with which a kilobyte can ask for a
gigabyte. A configuration that does not mean what it seems to say is refused here instead.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from contracts.errors import ConfigError, shown

MAX_TEXT_LENGTH = 1_000_000  # characters; a fleet's file has a few thousand
MAX_DEPTH = 32  # of nested mappings and lists; the config tree has five at most


def read_yaml(text: str, name: str) -> Any:
    """The value that the text stands for: dicts with text keys, lists, and plain values. `name` is for messages."""
    if len(text) > MAX_TEXT_LENGTH:
        raise ConfigError(f"{name}: has {len(text)} characters; a configuration has at most {MAX_TEXT_LENGTH}")
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        context = f" ({error.context})" if error.context else ""
        raise ConfigError(f"{name}{where}: {error.problem}{context}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{name}: the character {error.character:#x} at {error.position} is not allowed") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2's core values, unique text keys, no aliases, no tags, bounded depth."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own shape

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # missing in PyYAML's stubs
        self._depth += 1
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"alias *{event.anchor}: write the value out instead", event)
        if event.tag is not None:
            raise _refused(f"tag {event.tag}: write a plain value instead", event)
        if self._depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_strict_mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"key {shown(key)} is not text: put it in quotes", key_node)
            if key in values:
                raise _refused(f"key {shown(key)} is given twice: keep one of them", key_node)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def construct_strict_text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        if any("\ud800" <= character <= "\udfff" for character in text):  # by \u escapes; UTF-8 has none of these
            raise _refused("half of a surrogate pair: write the character itself", node)
        return text

    def construct_strict_int(self, node: yaml.ScalarNode) -> int:
        text: str = node.value
        if len(text) > 64:  # Python refuses to read integers of many thousand digits
            raise _refused("an integer of more than 64 digits", node)
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)

    def construct_strict_float(self, node: yaml.ScalarNode) -> float:
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_strict_bool(self, node: yaml.ScalarNode) -> bool:
        return bool(node.value.lower() == "true")


def _refused(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _teach(kind: str, pattern: str, first_characters: str) -> None:
    tag = f"tag:yaml.org,2002:{kind}"
    _StrictLoader.add_implicit_resolver(tag, re.compile(f"^(?:{pattern})$"), list(first_characters))


_teach("null", r"~|null|Null|NULL|", "~nN")
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])
_teach("bool", r"true|True|TRUE|false|False|FALSE", "tTfF")
_teach("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_teach(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _StrictLoader.construct_strict_mapping)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", _StrictLoader.construct_strict_text)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_strict_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_strict_float)
_StrictLoader.add_constructor("tag:yaml.org,2002:bool", _StrictLoader.construct_strict_bool)
