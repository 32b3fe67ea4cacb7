"""The error tree: complete in its table and in its drawing, and whole after a journey between processes."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import errors
from contracts.errors import STATUS, InvalidArgument, OutOfBlocks, RankLost, SpecfleetError, shown, status_of

# From the gRPC specification; kept apart from the table so that a slip in one shows.
GRPC_CODES = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}


def tree(kind: type[SpecfleetError]) -> list[type[SpecfleetError]]:
    # dataclass and test doubles of other modules may subclass too; the tree is what this module defines.
    below = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind, *(descendant for sub in below for descendant in tree(sub))]


ALL = tree(SpecfleetError)


def example(kind: type[SpecfleetError]) -> SpecfleetError:
    if kind is OutOfBlocks:
        return OutOfBlocks(num_needed=7, num_free=3)
    if kind is RankLost:
        return RankLost(rank=None, waited_s=1.5)
    return kind("what was wrong", details={"key": "value"}, retry_after_s=2.0)


def test_every_class_has_its_own_row_in_the_table() -> None:
    assert set(STATUS) == set(ALL)


def test_every_status_is_a_grpc_code_by_name_and_number() -> None:
    for kind, status in STATUS.items():
        assert GRPC_CODES[status.grpc] == status.grpc_code, kind
        assert 400 <= status.http <= 599, kind
        # The caller's fault in one face is the caller's fault in the other.
        assert (status.http < 500) == (status.grpc_code not in (4, 8, 13, 14) or status.http == 429), kind


def test_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    drawn: list[tuple[int, str]] = [
        (len(match[1]), match[2]) for match in re.finditer(r"^    ([│├└─ ]*)(\w+)", errors.__doc__, re.MULTILINE)
    ]

    def depth(kind: type[SpecfleetError]) -> int:
        return kind.__mro__.index(SpecfleetError)

    assert drawn == [(4 * depth(kind), kind.__name__) for kind in ALL]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("journey", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_survive_a_journey(kind: type[SpecfleetError], journey: object) -> None:
    assert callable(journey)
    error = example(kind)
    arrived = journey(error)
    assert type(arrived) is kind
    assert str(arrived) == str(error) == error.message
    assert vars(arrived) == vars(error)


def test_status_follows_the_nearest_class_and_strangers_are_internal() -> None:
    class Special(OutOfBlocks):
        pass

    assert status_of(Special(num_needed=1, num_free=0)) == STATUS[OutOfBlocks]
    assert status_of(RankLost(rank=2, waited_s=3.0)).grpc == "UNAVAILABLE"
    assert status_of(ZeroDivisionError()) == STATUS[errors.Internal]


def test_errors_that_count_say_their_numbers() -> None:
    blocks = OutOfBlocks(num_needed=7, num_free=3)
    assert (blocks.num_needed, blocks.num_free) == (7, 3)
    assert "7" in blocks.message
    assert "3" in blocks.message
    lost = RankLost(rank=2, waited_s=30.0)
    assert (lost.rank, lost.waited_s) == (2, 30.0)
    assert "rank 2" in lost.message
    assert "30" in lost.message
    assert RankLost(rank=None, waited_s=1.0).details["rank"] == "unknown"


def test_details_cannot_be_changed_behind_the_error() -> None:
    mine = {"field": "seed"}
    error = InvalidArgument("seed is wrong", details=mine)
    mine["field"] = "other"
    assert error.details == {"field": "seed"}
    with pytest.raises(TypeError):
        error.details["field"] = "other"  # type: ignore[index]


huge_integers = st.booleans().map(lambda sign: 10**10_000 * sign)  # more digits than repr() agrees to write
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | huge_integers,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(hostile)
def test_a_shown_value_is_one_short_line_of_ascii(value: object) -> None:
    text = shown(value)
    assert len(text) <= 80
    assert text.isascii()
    assert text.isprintable()
