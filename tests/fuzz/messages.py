"""Protobuf messages from their descriptors: any value that a field can hold, and good messages with some fields bad."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

__all__ = ["broken", "message_of", "spoilt"]

M = TypeVar("M", bound=Message)
_F = FieldDescriptor
_UNSIGNED = st.one_of(st.integers(0, 40), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]))
_SIGNED = st.one_of(st.integers(-3, 40), st.sampled_from([-(2**31), 2**31 - 1]))
_LONG = st.one_of(st.integers(0, 40), st.sampled_from([2**32, 2**63 - 1, 2**63, 2**64 - 1]))
_REAL = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf")]),
    st.floats(0.0, 1.0, width=32),
)
_TEXT = st.one_of(
    st.sampled_from(
        ["", "a", "the cat", "verifier", "lookup", "tiny", "\x00", "🐈", "{", '{"type": "object"}', "x" * 5000]
    ),
    st.text(max_size=20),
)
_SCALARS: dict[int, SearchStrategy[Any]] = {
    _F.TYPE_UINT32: _UNSIGNED,
    _F.TYPE_UINT64: _LONG,
    _F.TYPE_INT32: _SIGNED,
    _F.TYPE_SINT32: _SIGNED,
    _F.TYPE_FLOAT: _REAL,
    _F.TYPE_DOUBLE: _REAL,
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_STRING: _TEXT,
    _F.TYPE_BYTES: st.binary(max_size=40),
    _F.TYPE_ENUM: st.integers(0, 9),
}


def message_of(descriptor: Any) -> SearchStrategy[Message]:
    """Any message of this type: `descriptor` is its `DESCRIPTOR`, typed differently by protobuf's runtimes."""
    if not descriptor.fields:
        return st.builds(GetMessageClass(descriptor))
    return st.lists(_settings_of(descriptor), max_size=6).map(lambda said: _made(descriptor, said))


def spoilt(good: M, *, most: int = 3) -> SearchStrategy[M]:
    """A good message in which up to so many fields are anything."""
    return st.lists(_settings_of(good.DESCRIPTOR), max_size=most).map(lambda said: _changed(good, said))


def broken(messages: SearchStrategy[M]) -> SearchStrategy[bytes]:
    """A message's bytes, some of them others."""
    changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4)
    return st.tuples(messages, changes).map(lambda pair: _garbled(pair[0].SerializeToString(), pair[1]))


def _settings_of(descriptor: Any) -> SearchStrategy[tuple[str, Any]]:
    """A field's name, and a value for it."""
    return st.sampled_from(list(descriptor.fields)).flatmap(lambda of: st.tuples(st.just(of.name), _value_of(of)))


def _value_of(of: Any) -> SearchStrategy[Any]:
    inner = of.message_type
    if inner is not None and inner.GetOptions().map_entry:
        key, value = inner.fields_by_name["key"], inner.fields_by_name["value"]
        return st.dictionaries(_value_of(key), _value_of(value), max_size=3)
    one = message_of(inner) if inner is not None else _SCALARS[of.type]
    return st.lists(one, max_size=4) if of.is_repeated else one


def _made(descriptor: Any, said: list[tuple[str, Any]]) -> Message:
    return _changed(GetMessageClass(descriptor)(), said)


def _changed(message: M, said: list[tuple[str, Any]]) -> M:
    changed = type(message)()
    changed.CopyFrom(message)
    for name, value in said:
        changed.ClearField(name)
        if isinstance(value, Message):
            getattr(changed, name).CopyFrom(value)
        elif isinstance(value, list):
            getattr(changed, name).extend(value)
        elif isinstance(value, dict):
            getattr(changed, name).update(value)
        else:
            setattr(changed, name, value)
    return changed


def _garbled(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    garbled = bytearray(content or b"\x00")
    for place, byte in changes:
        garbled[place % len(garbled)] = byte
    return bytes(garbled)
