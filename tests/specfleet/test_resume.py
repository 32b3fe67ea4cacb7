"""A stream that is lost goes on by itself, and every token is seen exactly once and in order."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specfleet import AsyncClient, Client, DeadlineExceeded, Internal, NotFound, TokenEvent, Unavailable
from specfleet.errors import ConnectionLost
from specfleet.patience import Patience
from specfleet.v1 import inference_pb2 as pb
from tests.specfleet.conftest import Ask
from tests.specfleet.scripted_fleet import (
    ANSWER,
    LossyProxy,
    Refusal,
    Script,
    ScriptedFleet,
    ServerThread,
    Word,
    serve,
)

AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "loading", retry_after_s=0.01, reason="Unavailable")
FORGOTTEN = Refusal(grpc.StatusCode.NOT_FOUND, "there is no such request", reason="NotFound")


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Answers of any lengths in messages of any sizes, over streams that are cut anywhere and begin too early."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    answers = [
        [Word(100 * choice + index, f"{choice}.{index} ") for index in range(length)]
        for choice, length in enumerate(lengths)
    ]
    return Script(
        answers=answers,
        sizes=draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        # Cuts before the first response make a client wait longer each time: some, not many.
        cuts=draw(st.lists(st.integers(1, 12), max_size=6)) + draw(st.lists(st.integers(0, 1), max_size=2)),
        rewinds=draw(st.lists(st.integers(0, 5), max_size=8)),
    )


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_whatever_is_lost_or_repeated_each_token_is_seen_once(fleet: ScriptedFleet, kind: str) -> None:
    async def ask_awaiting(num_choices: int) -> list[Any]:
        async with AsyncClient(fleet.address) as client:
            return [event async for event in client.generate("Hello", num_choices=num_choices)]

    def ask_blocking(num_choices: int) -> list[Any]:
        with Client(fleet.address) as client:
            return list(client.generate("Hello", num_choices=num_choices))

    @settings(max_examples=40)
    @given(scripts())
    def check(script: Script) -> None:
        answers = script.answers
        fleet.reset()
        fleet.script = script
        events = ask_blocking(len(answers)) if kind == "blocking" else asyncio.run(ask_awaiting(len(answers)))
        for choice, answer in enumerate(answers):
            seen = [event for event in events if event.choice == choice]
            expected: list[Any] = [(index, word.token_id) for index, word in enumerate(answer)]
            assert [(event.index, event.token_id) for event in seen] == (expected or [(None, None)])
            assert "".join(event.text for event in seen) == "".join(word.text for word in answer)
            assert [event.finish_reason for event in seen] == [None] * (len(seen) - 1) + ["stop"]
        assert len({call.request_id for call in fleet.calls}) == 1
        assert fleet.asked(pb.CancelRequest) == []

    check()


def test_before_the_first_answer_the_same_request_is_sent_again(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.cuts = [0, 0]
    assert [event.token_id for event in ask(fleet.address)] == [word.token_id for word in ANSWER]
    first, second, third = fleet.calls
    assert first == second == third
    assert isinstance(first, pb.GenerateRequest)


def test_after_it_only_what_is_missing_is_asked_for(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.answers = (ANSWER, ANSWER[:1])
    fleet.script.cuts = [4]
    ask(fleet.address, num_choices=2)
    (resumed,) = fleet.asked(pb.ResumeRequest)
    assert list(resumed.next_index) == [2, 1]


def test_a_gap_is_an_error_and_nothing_behind_it_is_shown(fleet: ScriptedFleet) -> None:
    fleet.script.cuts, fleet.script.skips = [3], [1]
    events: list[TokenEvent] = []
    with Client(fleet.address) as client, pytest.raises(Internal, match="tokens 2 to 2 of choice 0 are missing"):
        events.extend(client.generate("Hello"))
    assert [event.index for event in events] == [0]  # 1 was held back as the newest
    assert len(fleet.asked(pb.CancelRequest)) == 1


def test_an_end_before_the_last_token_is_a_gap_too(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.cuts, fleet.script.skips = [3], [100]
    with pytest.raises(Internal, match=f"has {len(ANSWER)}"):
        ask(fleet.address)


def test_refusals_while_a_stream_is_lost_are_borne_with(fleet: ScriptedFleet, ask: Ask) -> None:
    def refuse_twice(request: Any) -> Refusal | None:
        return AWAY if isinstance(request, pb.ResumeRequest) and len(fleet.asked(pb.ResumeRequest)) < 3 else None

    fleet.script.cuts, fleet.on_call = [3], refuse_twice
    assert [event.token_id for event in ask(fleet.address)] == [word.token_id for word in ANSWER]
    assert len(fleet.asked(pb.ResumeRequest)) == 3


def test_a_refusal_at_the_start_is_an_error_at_once(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.on_call = lambda request: AWAY
    with pytest.raises(Unavailable, match="loading") as caught:
        ask(fleet.address)
    assert caught.value.retry_after_s == 0.01
    assert len(fleet.calls) == 1


def test_a_fleet_that_forgot_the_request_says_so(fleet: ScriptedFleet, ask: Ask) -> None:
    def forget(request: Any) -> Refusal | None:
        return FORGOTTEN if isinstance(request, pb.ResumeRequest) else None

    fleet.script.cuts, fleet.on_call = [2], forget
    with pytest.raises(NotFound, match="there is no such request"):
        ask(fleet.address)


def test_there_is_an_end_to_patience(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.cuts = [2, *[0] * 100]
    with pytest.raises(Unavailable, match=r"could not be resumed for 0\.\d s"):
        ask(fleet.address, client={"resume_for_s": 0.3})


@pytest.mark.parametrize(
    ("error", "quiet_s", "is_borne"),
    [(ConnectionLost("lost"), 70.0, True), (ConnectionLost("lost"), 15.0, False), (Unavailable("no"), 70.0, False)],
)
def test_a_stream_that_lived_was_there_though_it_stayed_quiet(
    error: Unavailable, quiet_s: float, is_borne: bool
) -> None:
    """Longer than pings take to tell of a peer that stands still."""
    now_s = 0.0
    patience = Patience(lambda: now_s, deadline_s=None, resume_for_s=60.0, jitter=lambda: 0.0)
    waits_s = []
    with nullcontext() if is_borne else pytest.raises(Unavailable, match="could not be resumed for"):
        for _ in range(8):
            patience.begin()
            now_s += quiet_s
            waits_s.append(patience.wait_s(error, has_begun=True, progress=1))
    assert waits_s == ([0.0] * 8 if is_borne else waits_s[:4])


def test_the_deadline_ends_patience_too(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.cuts = [2, *[0] * 100]
    with pytest.raises(DeadlineExceeded):
        ask(fleet.address, deadline_s=0.3)


def test_a_connection_that_is_reset_under_a_stream(fleet: ScriptedFleet, thread: ServerThread, ask: Ask) -> None:
    fleet.script.answers = ([Word(index, "x") for index in range(300)],)
    proxy = LossyProxy(fleet.port)
    thread.run(proxy.serve())
    resets = [50, 20, 2]

    def reset(number: int) -> None:
        if resets and number == resets[-1]:
            resets.pop()
            proxy.reset()

    fleet.on_response = reset
    events = ask(f"127.0.0.1:{proxy.port}")
    thread.run(proxy.stop())
    assert [event.index for event in events] == list(range(300))
    assert not resets, "less was lost than meant"


def test_a_router_that_is_replaced_under_a_stream(thread: ServerThread) -> None:
    old, new = ScriptedFleet(), ScriptedFleet()
    old.script.stall_after = 3
    server = thread.run(serve(old))
    with Client(old.address) as client:
        generation = client.generate("Hello")
        first = next(generation)
        assert old.stalled.wait(10)

        async def replace() -> grpc.aio.Server:
            await server.stop(None)
            return await serve(new, old.port)

        replacement = thread.run(replace())
        try:
            rest = list(generation)
        finally:
            thread.run(replacement.stop(None))
    assert [event.token_id for event in (first, *rest)] == [word.token_id for word in ANSWER]
    (resumed,) = new.asked(pb.ResumeRequest)
    assert list(resumed.next_index) == [2]
