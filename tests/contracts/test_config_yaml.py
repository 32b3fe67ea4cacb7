"""Strict YAML: hostile or surprising text is refused with its place, and values are those of YAML 1.2."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config.yaml import MAX_TEXT_LENGTH, read_yaml
from contracts.errors import ConfigError

REFUSED = [
    ("a: [1,\n  2", "f:2:", "expected"),
    ("a: 1\n  b: 2", "f:2:4", "mapping values are not allowed"),
    ("a: 1\na: 2", "f:2:1", "key 'a' is given twice"),
    ("a: {b: 1, c: 2, b: 3}", "f:1:17", "key 'b' is given twice"),
    ("a: &x [1]\nb: *x", "f:2:4", "alias *x"),
    ("a: !!python/object/apply:os.system [ls]", "f:1:4", "tag tag:yaml.org,2002:python/object/apply:os.system"),
    ("a: !!set {}", "f:1:4", "tag "),
    ("a: !mine 1", "f:1:4", "tag !mine"),
    ("1: a", "f:1:1", "key 1 is not text"),
    ("true: a", "f:1:1", "key True is not text"),
    ("? [a]\n: b", "f:1:3", "key ['a'] is not text"),
    ("a: 1\n---\nb: 2", "f:2:1", "another document"),
    ("[" * 5000, "f:1:33", "more than 32 levels deep"),
    ("a: " + "9" * 10_000, "f:1:4", "an integer of more than 64 digits"),
    ("a: \x00", "f: ", "character 0x0"),
    ("a: \ud800", "f: ", "character 0xd800"),
    ("%YAML 9.9\n---\na: 1", "f:1:1", "incompatible"),
    ("a: 'x", "f:1:", "quoted"),
    ('a: "\\ud83d"', "f:1:4", "half of a surrogate pair"),
    ("x" * (MAX_TEXT_LENGTH + 1), "f: ", "characters"),
]


@pytest.mark.parametrize(("text", "place", "cause"), REFUSED, ids=[cause for _, _, cause in REFUSED])
def test_refused_text_is_placed(text: str, place: str, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "f")
    assert caught.value.message.startswith(place)
    assert cause in caught.value.message
    assert len(caught.value.message) < 200


def test_a_bomb_of_aliases_is_refused_at_the_first() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    with pytest.raises(ConfigError, match=r"^f:2:\d+: alias \*a0"):
        read_yaml("\n".join(lines), "f")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("1:30", "1:30"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -float("inf")),
        ("2001-01-01", "2001-01-01"),
        ("'1'", "1"),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("=", "="),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = read_yaml(text, "f")
    assert found == value
    assert type(found) is type(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_is_read_as_itself(value: Any) -> None:
    assert read_yaml(json.dumps(value, ensure_ascii=False), "f") == value


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("{}[]:,&*!|>'\"#%@-? \n\t~<=0123"), max_size=40))
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):  # any other error fails the test
        json.dumps(read_yaml(text, "f"))  # ... and so does any value that JSON does not know
