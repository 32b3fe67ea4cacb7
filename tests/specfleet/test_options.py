"""What the wire cannot carry is refused before anything is sent, in words about the option."""

from __future__ import annotations

from typing import Any

import pytest

from specfleet import Admin, AsyncClient, Client, InvalidRequest
from specfleet.options import generate_request
from specfleet.v1 import inference_pb2 as pb
from tests.specfleet.conftest import Ask
from tests.specfleet.scripted_fleet import ScriptedFleet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; ask for at least one token"),
        ({"max_tokens": -1}, "max_tokens is -1; it must be a whole number from 0"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5; it must be a whole number"),
        ({"temperature": "warm"}, "temperature is 'warm'; it must be a number"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 2\\^64 - 1"),
        ({"mode": "fast"}, "mode is 'fast'; it is one of off, vanilla, pearl, fleet"),
        ({"top_k": 2**40}, "top_k is 1099511627776; it must be"),
        ({"stop": [1]}, "stop is \\[1\\]; it must be a text or a list of texts"),
        ({"stop": "\ud800"}, "stop is .*ud800.*; it must be a text"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids is \\['a'\\]; it must be a list of token ids"),
        ({"ignore_eos": "yes"}, "ignore_eos is 'yes'; it must be True or False"),
        ({"logit_bias": {"a": 1}}, "logit_bias is {'a': 1}; it must be token ids to numbers"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids is \\[-1\\]; it must be a list of token ids"),
        ({"drafters": [1]}, "drafters is \\[1\\]; it must be names"),
        ({"priority": 2**31}, "priority is 2147483648; it must be a whole number below"),
        ({"request_id": 3}, "request_id is 3; it must be a text"),
        ({"json_schema": {"type": "object"}}, "json_schema is {'type': 'object'}; it must be a text"),
        ({"deadline_s": float("nan")}, "deadline_s is nan; it must be a number of seconds"),
        ({"deadline_s": "5"}, "deadline_s is '5'; it must be a number of seconds"),
        ({"max_draft": "x" * 200}, "max_draft is 'xxx.*\\.\\.\\.; it must be"),
    ],
)
def test_wrong_options_are_refused(fleet: ScriptedFleet, options: dict[str, Any], words: str) -> None:
    with Client(fleet.address) as client, pytest.raises(InvalidRequest, match=words):
        client.generate("Hello", **options)
    assert fleet.calls == []


@pytest.mark.parametrize("kind", [Client, AsyncClient, Admin])
def test_a_timeout_is_a_number(fleet: ScriptedFleet, kind: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s is nan; it must be a number of seconds"):
        kind(fleet.address, timeout_s=float("nan"))


@pytest.mark.parametrize("limit_s", [float("inf"), 1e12])
def test_a_limit_beyond_all_is_none(fleet: ScriptedFleet, ask: Ask, limit_s: float) -> None:
    ask(fleet.address, client={"timeout_s": limit_s})
    assert fleet.remaining_s is None
    ask(fleet.address, client={"timeout_s": 100.0}, deadline_s=limit_s)
    assert fleet.remaining_s is None


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (b"Hello", "the prompt is bytes; give a text, token ids or chat messages"),
        (7, "the prompt is int; give"),
        ("half \udc00", "not valid Unicode at character 5"),
        ([1, -1], "prompt is \\[1, -1\\]; it must be a text, token ids or chat messages"),
        ([{"role": "user"}], "message 0 is {'role': 'user'}; a message has a role and a content"),
        ([{"role": "user", "content": None}], "content of message 0 is None; it must be a text"),
        ([{"role": "user", "content": "x"}, "y"], "message 1 is 'y'; a message has"),
    ],
)
def test_prompts_that_are_none_are_refused(prompt: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        generate_request(prompt, {})


def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"there is no option 'max_token'; options are .*max_tokens"):
        generate_request("Hello", {"max_token": 3})  # type: ignore[typeddict-unknown-key]


def test_what_is_left_out_is_left_to_the_fleet() -> None:
    request = generate_request("Hello", {"request_id": "r"})
    assert request == pb.GenerateRequest(request_id="r", prompt="Hello", stop=pb.Stop(max_tokens=256))
    assert generate_request("Hello", {"request_id": "r", "seed": None, "mode": None, "top_p": None}) == request


def test_a_prompt_may_be_token_ids() -> None:
    assert list(generate_request((1, 2), {}).token_ids.ids) == [1, 2]
    assert generate_request([], {}).WhichOneof("input") == "token_ids"


def test_each_request_has_an_id_of_its_own() -> None:
    assert generate_request("a", {}).request_id != generate_request("a", {}).request_id
