"""Names of processes, and the entries of the fleet's file that they belong to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import load_config
from contracts.config.names import entry_of, is_name, names_of
from contracts.errors import ConfigError

NAMES = st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True)
FILE = "engine: {{model: m}}\ndrafters: {{{drafters}}}\n"


@given(entry=NAMES, replicas=st.integers(0, 12))
def test_every_process_belongs_to_its_entry(entry: str, replicas: int) -> None:
    names = names_of(entry, replicas)
    assert len(set(names)) == len(names) == replicas
    assert all(is_name(name) and entry_of(name, {entry}) == entry for name in names)


def test_a_name_with_an_entry_of_its_own_is_that_one() -> None:
    assert entry_of("a-1", {"a", "a-1"}) == "a-1"
    assert entry_of("a-1-2", {"a", "a-1"}) == "a-1"
    assert entry_of("a-x", {"a"}) is None
    assert entry_of("b-1", {"a"}) is None


@pytest.mark.parametrize(
    ("drafters", "said"),
    [
        ("a: {kind: stand, replicas: 2}, a-7: {kind: stand}", "drafters has the names 'a', with replicas, and 'a-7'"),
        (f"{'a' * 62}: {{kind: stand, replicas: 2}}", "replicas is 2; with a number behind it, its name is too long"),
        ("a: {kind: stand, replicas: 300}", "drafters.a.replicas is 300"),
    ],
)
def test_names_that_two_could_have_are_refused(drafters: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(FILE.format(drafters=drafters))
    assert said in str(refused.value)


def test_names_that_differ_may_look_alike() -> None:
    config = load_config(FILE.format(drafters="a: {kind: stand}, a-1: {kind: stand}"))
    assert list(config.drafters) == ["a", "a-1"]
