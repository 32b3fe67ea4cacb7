"""Sampling and stop parameters: all within their limits, or refused by name, value and limit."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import sampling
from contracts.errors import InvalidArgument
from contracts.sampling import SamplingParams, StopParams

token_ids = st.integers(0, sampling.MAX_TOKEN_ID)
valid_sampling = st.builds(
    SamplingParams,
    temperature=st.just(0.0) | st.floats(sampling.MIN_TEMPERATURE, sampling.MAX_TEMPERATURE),
    top_k=st.integers(0, sampling.MAX_TOP_K),
    top_p=st.floats(sampling.MIN_TOP_P, 1.0),
    min_p=st.floats(0.0, 1.0),
    repetition_penalty=st.floats(sampling.MIN_REPETITION_PENALTY, sampling.MAX_REPETITION_PENALTY),
    presence_penalty=st.floats(-2.0, 2.0),
    frequency_penalty=st.integers(-2, 2),
    logit_bias=st.dictionaries(token_ids, st.floats(-100.0, 100.0), max_size=5),
    allowed_token_ids=st.none() | st.lists(token_ids, min_size=1, max_size=5, unique=True).map(tuple),
    seed=st.integers(0, 2**64 - 1),
    num_logprobs=st.integers(0, sampling.MAX_LOGPROBS),
)


@given(valid_sampling)
def test_valid_parameters_are_values(params: SamplingParams) -> None:
    for same in (pickle.loads(pickle.dumps(params)), copy.deepcopy(params), dataclasses.replace(params)):
        assert same == params
        assert hash(same) == hash(params)
    assert params.is_greedy == (params.temperature == 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 1  # type: ignore[misc]


def test_defaults_change_nothing() -> None:
    params = SamplingParams()
    assert params.is_greedy
    assert (params.top_k, params.top_p, params.min_p, params.repetition_penalty) == (0, 1.0, 0.0, 1.0)
    assert not params.logit_bias
    assert params.allowed_token_ids is None


def test_logit_bias_is_a_private_copy() -> None:
    mine = {5: 1.0}
    params = SamplingParams(logit_bias=mine)
    mine[6] = 2.0
    assert dict(params.logit_bias) == {5: 1.0}
    with pytest.raises(TypeError):
        params.logit_bias[7] = 3.0  # type: ignore[index]


NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
INTEGERS = ["top_k", "seed", "num_logprobs"]
NO_NUMBERS: list[Any] = [
    float("nan"),
    float("inf"),
    -float("inf"),
    True,
    False,
    None,
    "1",
    [],
    1j,
    10**400,
    -(10**5000),
]
JUST_OUTSIDE: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", 1e-7),
    ("temperature", 100.1),
    ("top_k", -1),
    ("top_k", 2**31),
    ("top_p", 0.0),
    ("top_p", 1.0000001),
    ("min_p", -1e-9),
    ("min_p", 1.1),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", 10.5),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("seed", -1),
    ("seed", 2**64),
    ("num_logprobs", -1),
    ("num_logprobs", 65),
    ("logit_bias", [(1, 2.0)]),
    ("logit_bias", {-1: 0.0}),
    ("logit_bias", {True: 0.0}),
    ("logit_bias", {"1": 0.0}),
    ("logit_bias", {2**31: 0.0}),
    ("logit_bias", {1: 100.5}),
    ("logit_bias", {1: float("nan")}),
    ("logit_bias", dict.fromkeys(range(sampling.MAX_LOGIT_BIAS_ENTRIES + 1), 0.0)),
    ("allowed_token_ids", ()),
    ("allowed_token_ids", [1, 2]),
    ("allowed_token_ids", (1, -1)),
    ("allowed_token_ids", (1, 2.0)),
    ("allowed_token_ids", (3, 3)),
    ("allowed_token_ids", tuple(range(sampling.MAX_ALLOWED_TOKEN_IDS + 1))),
]
WRONG = [
    *((field, value) for field in NUMBERS for value in NO_NUMBERS),
    *((field, value) for field in INTEGERS for value in [*NO_NUMBERS, 1.0]),
    *JUST_OUTSIDE,
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field}-{index}" for index, (field, _) in enumerate(WRONG)])
def test_wrong_parameters_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        SamplingParams(**{field: value})
    assert caught.value.message.startswith(field)
    assert len(caught.value.message) < 300


def test_a_refusal_shows_the_value_and_what_would_be_right() -> None:
    with pytest.raises(InvalidArgument) as caught:
        SamplingParams(temperature=-0.1)
    assert caught.value.message == "temperature is -0.1; it must be 0 (greedy) or a number in [1e-06, 100]"
    assert caught.value.details == {"field": "temperature"}
    with pytest.raises(InvalidArgument, match=r"seed is 18446744073709551616; .* \[0, 18446744073709551615\]"):
        SamplingParams(seed=2**64)
    with pytest.raises(InvalidArgument, match=r"logit_bias\[7\] is 101; .* \[-100, 100\]"):
        SamplingParams(logit_bias={7: 101})
    with pytest.raises(InvalidArgument, match="logit_bias has 1025 entries; it takes 0 to 1024"):
        SamplingParams(logit_bias=dict.fromkeys(range(1025), 0.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 2**31),
        ("max_tokens", 1.0),
        ("stop", "a bare string"),
        ("stop", ["list"]),
        ("stop", ("",)),
        ("stop", (b"bytes",)),
        ("stop", ("x" * 257,)),
        ("stop", ("half \ud83d",)),
        ("stop", ("x",) * 17),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", [1]),
        ("stop_token_ids", tuple(range(257))),
        ("ignore_eos", 1),
        ("ignore_eos", None),
    ],
)
def test_wrong_stops_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        StopParams(**{"max_tokens": 8, field: value})
    assert caught.value.message.startswith(field)


def test_right_stops_are_taken() -> None:
    params = StopParams(max_tokens=1, stop=("\n\n", "ß" * 256), stop_token_ids=(0, 2**31 - 1), ignore_eos=True)
    assert pickle.loads(pickle.dumps(params)) == params
