"""What a generation gives: each token as one event, the last one with how it ended."""

from __future__ import annotations

import asyncio

import pytest

from specfleet import AsyncClient, Client, Completion, Internal, InvalidRequest, Started, TokenEvent
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import types_pb2
from tests.specfleet.conftest import Ask
from tests.specfleet.scripted_fleet import ANSWER, SEED, ScriptedFleet, Word


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (100,)])
def test_each_token_is_one_event_and_only_the_last_says_how_it_ended(
    fleet: ScriptedFleet, ask: Ask, sizes: tuple[int, ...]
) -> None:
    fleet.script.sizes = sizes
    events = ask(fleet.address)
    assert [(event.index, event.token_id, event.text, event.drafter) for event in events] == [
        (index, word.token_id, word.text, word.drafter or None) for index, word in enumerate(ANSWER)
    ]
    assert [event.finish_reason for event in events] == [None] * (len(ANSWER) - 1) + ["stop"]
    assert [event.usage is None and event.statistics is None for event in events[:-1]] == [True] * (len(ANSWER) - 1)
    usage, statistics = events[-1].usage, events[-1].statistics
    assert usage is not None
    assert statistics is not None
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (3, len(ANSWER))
    assert (statistics.mode, statistics.mean_acceptance_length) == ("fleet", 2.0)
    assert statistics.accepted_by_drafter == {"general": 2, "code": 2}
    assert statistics.acceptance_histogram == (1, 0, 2)


def test_text_held_back_until_the_end_comes_with_the_last_token(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.held_text = " EN"
    events = ask(fleet.address)
    assert events[-1].text == ". EN"
    assert len(events) == len(ANSWER)


def test_a_choice_without_tokens_has_one_event_that_says_so(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.answers = (ANSWER[:2], ())
    by_choice = {
        choice: [event for event in ask(fleet.address, num_choices=2) if event.choice == choice] for choice in (0, 1)
    }
    assert [event.token_id for event in by_choice[0]] == [11, 12]
    assert [(event.index, event.token_id, event.finish_reason) for event in by_choice[1]] == [(None, None, "stop")]


def test_logprobs_come_with_their_alternatives(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.answers = ([Word(11, "a", logprob=-0.5), Word(12, "b")],)
    first, second = ask(fleet.address, num_logprobs=1)
    assert first.logprob == -0.5
    assert [(top.token_id, top.logprob) for top in first.top_logprobs] == [(11, -0.5)]
    assert (second.logprob, second.top_logprobs) == (None, ())


def test_an_error_in_a_choice_is_raised_when_all_have_been_heard(fleet: ScriptedFleet) -> None:
    fleet.script.reason, fleet.script.error = pb.FINISH_REASON_ERROR, "OutOfBlocks: no room"
    events: list[TokenEvent] = []
    with Client(fleet.address) as client, pytest.raises(Internal, match="OutOfBlocks: no room"):
        events.extend(client.generate("Hello"))
    assert [event.token_id for event in events] == [word.token_id for word in ANSWER]
    assert events[-1].finish_reason == "error"
    assert fleet.asked(pb.CancelRequest) == []


def test_a_completion_is_the_whole_answer(fleet: ScriptedFleet) -> None:
    async def complete() -> tuple[Completion, Completion]:
        async with AsyncClient(fleet.address) as client:
            awaited = await client.complete("Hello", request_id="one")
        with Client(fleet.address) as blocking:
            return awaited, await asyncio.to_thread(blocking.complete, "Hello", request_id="one")

    awaited, blocked = asyncio.run(complete())
    assert awaited == blocked
    assert awaited.text == "The sea is é."
    assert awaited.token_ids == tuple(word.token_id for word in ANSWER)
    assert awaited.drafters == (None, "general", "general", "code", "code", None)
    assert (awaited.finish_reason, awaited.seed, awaited.request_id) == ("stop", SEED, "one")
    assert awaited.usage.num_completion_tokens == len(ANSWER)


def test_an_async_client_may_be_made_before_its_loop(fleet: ScriptedFleet) -> None:
    client = AsyncClient(fleet.address)

    async def complete() -> str:
        async with client:
            return (await client.complete("Hello")).text

    assert asyncio.run(complete()) == "The sea is é."


def test_a_completion_has_one_choice(fleet: ScriptedFleet) -> None:
    with Client(fleet.address) as client, pytest.raises(InvalidRequest, match="iterate over generate"):
        client.complete("Hello", num_choices=2)


def test_a_generation_knows_its_id_at_once_and_what_was_accepted_later(fleet: ScriptedFleet) -> None:
    with Client(fleet.address) as client:
        generation = client.generate("Hello")
        before = generation.started
        next(generation)
        assert before is None
        assert generation.started == Started(num_prompt_tokens=3, model="target", seed=SEED)
        generation.close()
    (asked,) = fleet.asked(pb.GenerateRequest)
    assert asked.request_id == generation.request_id
    assert len(generation.request_id) == 36


def test_options_reach_the_fleet(fleet: ScriptedFleet, ask: Ask) -> None:
    ask(
        fleet.address,
        [{"role": "user", "content": "Hi"}],
        client={"api_key": "secret"},
        max_tokens=5,
        temperature=0.8,
        seed=0,
        mode="pearl",
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        stop="END",
        stop_token_ids=[9],
        ignore_eos=True,
        logit_bias={3: -1.5},
        allowed_token_ids=[1, 2],
        num_logprobs=2,
        max_draft=0,
        drafters=["general"],
        priority=-1,
        json_schema="{}",
        request_id="mine",
        model="target",
        deadline_s=100.0,
    )
    (asked,) = fleet.asked(pb.GenerateRequest)
    expected = pb.GenerateRequest(
        request_id="mine",
        model="target",
        chat=pb.Chat(messages=[pb.Chat.Message(role="user", content="Hi")]),
        sampling=types_pb2.Sampling(
            temperature=0.8,
            top_k=4,
            top_p=0.9,
            min_p=0.1,
            repetition_penalty=1.1,
            presence_penalty=0.2,
            frequency_penalty=0.3,
            logit_bias={3: -1.5},
            allowed_token_ids=types_pb2.TokenIds(ids=[1, 2]),
            seed=0,
            num_logprobs=2,
        ),
        stop=pb.Stop(max_tokens=5, strings=["END"], token_ids=[9], ignore_eos=True),
        speculation=pb.Speculation(mode=types_pb2.MODE_PEARL, max_draft=0, drafters=["general"]),
        priority=-1,
        json_schema="{}",
    )
    assert asked == expected
    assert fleet.metadata["authorization"] == "Bearer secret"
    assert fleet.remaining_s == pytest.approx(100.0, abs=5.0)


def test_unary_calls(fleet: ScriptedFleet) -> None:
    identity = types_pb2.ModelIdentity(name="target", vocab_size=1024, num_parameters=300_000_000)
    fleet.script.models = [pb.ListModelsResponse.Model(identity=identity, max_context=2048, drafters=["a"])]

    async def awaited() -> tuple[object, ...]:
        async with AsyncClient(fleet.address) as client:
            counted = await client.count_tokens("one two")
            chat = await client.count_tokens([{"role": "user", "content": "one two three"}])
            return counted, chat, await client.cancel("nobody's"), await client.list_models()

    with Client(fleet.address) as client:
        chat = client.count_tokens([{"role": "user", "content": "one two three"}])
        blocked = client.count_tokens("one two"), chat, client.cancel("nobody's"), client.list_models()
    assert asyncio.run(awaited()) == blocked
    assert blocked[:3] == (2, 3, False)
    (model,) = blocked[3]
    assert (model.name, model.vocab_size, model.max_context, model.drafters) == ("target", 1024, 2048, ("a",))
    assert not model.is_ready
