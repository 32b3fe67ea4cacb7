"""The wire that clients and operators use, as Markdown tables: read from the protos, with their comments."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from contracts.errors import STATUS

__all__ = ["errors", "face"]

_PROTOS = Path(__file__).parents[2] / "protos"
_PACKAGE = "specfleet/v1"
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6  # numbers of the fields of FileDescriptorProto, which places are made of
_INNER = 3
_FIELD = _METHOD = _VALUE = 2
_Field = FieldDescriptorProto


def face(name: str) -> str:
    """One file: its services, then its messages and enums, in their order."""
    file = _files()[f"{_PACKAGE}/{name}.proto"]
    told = _comments(file)
    services = (_service(of, (_SERVICE, index), told) for index, of in enumerate(file.service))
    messages = (_message(of, of.name, (_MESSAGE, index), told) for index, of in enumerate(file.message_type))
    enums = (_enum(of, (_ENUM, index), told) for index, of in enumerate(file.enum_type))
    return "\n".join(part for parts in (*services, *messages, *enums) for part in parts)


def errors() -> str:
    """Each kind of error and its codes, in the order of the one table."""
    rows = (f"| `{kind.__name__}` | {status.grpc} | {status.http} |\n" for kind, status in STATUS.items())
    return "| reason | gRPC status | HTTP |\n|---|---|---|\n" + "".join(rows)


@cache
def _files() -> Mapping[str, FileDescriptorProto]:
    """As the compiler reads them: what it generates for programs has no comments."""
    files = sorted(str(file) for file in (_PROTOS / _PACKAGE).glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "files"
        options = [f"-I{_PROTOS}", "--include_source_info", f"--descriptor_set_out={out}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *files], check=True)
        found = FileDescriptorSet.FromString(out.read_bytes())
    return {file.name: file for file in found.file}


_Place = tuple[int, ...]
_Comments = Mapping[_Place, str]


def _comments(file: FileDescriptorProto) -> _Comments:
    """What is written above or beside each part, by its place in the file."""
    return {
        tuple(each.path): " ".join((each.leading_comments or each.trailing_comments).split())
        for each in file.source_code_info.location
        if each.leading_comments or each.trailing_comments
    }


def _service(of: ServiceDescriptorProto, place: _Place, told: _Comments) -> Iterator[str]:
    yield f"### `{of.name}`\n"
    yield "| method | from | to | meaning |\n|---|---|---|---|"
    for index, method in enumerate(of.method):
        stream = "stream of " if method.server_streaming else ""
        meaning = told.get((*place, _METHOD, index), "")
        yield f"| `{method.name}` | `{_last(method.input_type)}` | {stream}`{_last(method.output_type)}` | {meaning} |"
    yield ""


def _message(of: DescriptorProto, name: str, place: _Place, told: _Comments) -> Iterator[str]:
    """With those inside it, but the entries of maps, which are told where they are used."""
    entries = {inner.name: inner for inner in of.nested_type if inner.options.map_entry}
    if of.field:
        yield _heading(name, told.get(place, ""))
        yield "| field | type | meaning |\n|---|---|---|"
        for index, field in enumerate(of.field):
            meaning = [told.get((*place, _FIELD, index), ""), *_one_of(of, field)]
            yield f"| `{field.name}` | {_kind(field, entries)} | {'; '.join(part for part in meaning if part)} |"
        yield ""
    for index, inner in enumerate(of.nested_type):
        if inner.name not in entries:
            yield from _message(inner, f"{name}.{inner.name}", (*place, _INNER, index), told)


def _one_of(of: DescriptorProto, field: FieldDescriptorProto) -> Sequence[str]:
    """The others beside it of which one alone can be there."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ()
    others = [each.name for each in of.field if each.HasField("oneof_index") and each.oneof_index == field.oneof_index]
    return (f"one of {', '.join(f'`{name}`' for name in others)}",)


def _enum(of: EnumDescriptorProto, place: _Place, told: _Comments) -> Iterator[str]:
    yield _heading(of.name, told.get(place, ""))
    yield "| value | number | meaning |\n|---|---|---|"
    for index, value in enumerate(of.value):
        yield f"| `{value.name}` | {value.number} | {told.get((*place, _VALUE, index), '')} |"
    yield ""


def _heading(name: str, meaning: str) -> str:
    return f"#### `{name}`\n" + (f"\n{meaning}\n" if meaning else "")


def _kind(field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto]) -> str:
    if (entry := entries.get(_last(field.type_name).rpartition(".")[2])) is not None:
        key, value = entry.field
        return f"map from {_kind(key, {})} to {_kind(value, {})}"
    named = field.type in (_Field.TYPE_MESSAGE, _Field.TYPE_ENUM)
    kind = f"`{_last(field.type_name)}`" if named else _Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == _Field.LABEL_REPEATED:
        return f"list of {kind}"
    return f"{kind}, may be absent" if field.proto3_optional else kind


def _last(name: str) -> str:
    """Without the package."""
    return name.removeprefix(".specfleet.v1.")
