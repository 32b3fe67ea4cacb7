"""Records survive the store as they are, and what another version wrote is refused; so does what was learned."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import VirtualClock
from contracts.errors import Internal, InvalidArgument
from contracts.types import DrafterId, ModelIdentity, RequestId, SamplingParams, StopParams, TenantId, TokenLogprob
from router.answer import Reason
from router.asked import Asked, Speculation
from router.journal.encoding import VERSION, decoded, encoded
from router.journal.leadership import Leadership
from router.journal.learned import Learned
from router.journal.memory import MemoryJournal
from router.journal.records import Accepted, Committed, Ended, Record, recorded
from router.request_key import RequestKey
from router.sequence import SequenceFigures
from specfleet.v1.journal_pb2 import JournalRecord
from speculation.calibration_state import calibrator_to_state
from speculation.expertise_state import expertise_to_state
from speculation.features import prompt_features
from speculation.roster import Roster
from speculation.scores import ScoreKind

tokens = st.integers(0, 2**31 - 1)
names = st.text(min_size=1, max_size=20)
drafters = names.map(DrafterId)
seeds = st.integers(0, 2**64 - 1)
KEY = RequestKey(TenantId("t"), RequestId("r"))
LOGPROB = TokenLogprob(token=1, logprob=-0.5, top=())
MODEL = ModelIdentity(
    name="m", architecture="llama", vocab_size=9, tokenizer_digest="t", weights_digest="w", dtype="f", num_parameters=1
)


@st.composite
def acceptances(draw: st.DrawFn) -> Accepted:
    prompt, seed = tuple(draw(st.lists(tokens, min_size=1, max_size=20))), draw(seeds)
    sampling = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.7])),
        top_k=draw(st.integers(0, 100)),
        top_p=draw(st.sampled_from([0.5, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3])),
        presence_penalty=draw(st.sampled_from([-1.0, 0.0])),
        logit_bias=draw(st.dictionaries(tokens, st.floats(-100, 100), max_size=3)),
        allowed_token_ids=draw(st.none() | st.lists(tokens, min_size=1, max_size=3, unique=True).map(tuple)),
        seed=seed,
        num_logprobs=draw(st.integers(0, 5)),
    )
    stop = StopParams(
        max_tokens=draw(st.integers(1, 1000)),
        stop=tuple(draw(st.lists(names, max_size=2))),
        stop_token_ids=tuple(draw(st.lists(tokens, max_size=2))),
        ignore_eos=draw(st.booleans()),
    )
    speculation = Speculation(
        mode=draw(st.sampled_from(["off", "fleet", "fleet-routing-budget"])),
        max_draft=draw(st.none() | st.integers(1, 64)),
        drafters=tuple(draw(st.lists(names, max_size=2))),
    )
    asked = Asked(
        prompt=prompt,
        sampling=sampling,
        stop=stop,
        seed=seed,
        request_id=draw(names),
        model=MODEL.name,
        num_choices=draw(st.integers(1, 16)),
        speculation=speculation,
        priority=draw(st.integers(-5, 5)),
        deadline_s=draw(st.none() | st.floats(0, 1e6)),
        tenant=TenantId(draw(st.text(max_size=20))),
        json_schema=draw(st.sampled_from(["", '{"type": "object"}'])),
    )
    return Accepted(asked=asked, prompt=prompt, model=MODEL, accepted_s=draw(st.floats(0, 2e9)))


@st.composite
def commitments(draw: st.DrawFn) -> Committed:
    said = draw(st.lists(st.tuples(tokens, st.none() | drafters), min_size=1, max_size=8))
    logprobs = [TokenLogprob(token=token, logprob=-0.5, top=((token, -0.5), (1, -2.0))) for token, _ in said]
    return Committed(
        choice=draw(st.integers(0, 15)),
        first_index=draw(st.integers(0, 10_000)),
        tokens=tuple(token for token, _ in said),
        guessed_by=tuple(drafter for _, drafter in said),
        logprobs=tuple(logprobs) if draw(st.booleans()) else (),
    )


ends = st.builds(
    Ended,
    choice=st.integers(0, 15),
    reason=st.sampled_from(Reason),
    error=st.text(max_size=20),
    num_cached=st.integers(0, 1000),
    figures=st.builds(
        SequenceFigures,
        num_rounds=st.integers(0, 1000),
        num_draft_tokens=st.integers(0, 1000),
        num_accepted_tokens=st.integers(0, 1000),
        rounds_by_accepted=st.lists(st.integers(0, 100), max_size=5),
        accepted_by_drafter=st.dictionaries(drafters, st.integers(1, 100), max_size=3),
    ),
    first_token_s=st.floats(0, 100),
    elapsed_s=st.floats(0, 100),
)


@given(st.one_of(acceptances(), commitments(), ends))
def test_what_is_written_is_read(record: Record) -> None:
    assert decoded(encoded(record)) == record


def accepted(**asked: Any) -> Accepted:
    defaults: dict[str, Any] = {
        "prompt": (1,),
        "sampling": SamplingParams(),
        "stop": StopParams(max_tokens=9),
        "seed": 0,
        "request_id": KEY.id,
        "tenant": KEY.tenant,
    }
    return Accepted(asked=Asked(**{**defaults, **asked}), prompt=(1,), model=MODEL, accepted_s=0.0)


def committed(first_index: int, *tokens: int, choice: int = 0) -> Committed:
    return Committed(choice=choice, first_index=first_index, tokens=tokens, guessed_by=(None,) * len(tokens))


def test_what_no_router_of_this_version_wrote_is_refused() -> None:
    newer = JournalRecord.FromString(encoded(committed(0, 1)))
    newer.version = VERSION + 1
    with pytest.raises(InvalidArgument, match=r"version 2; this router reads version 1"):
        decoded(newer.SerializeToString())
    with pytest.raises(InvalidArgument, match="version 0"):
        decoded(b"")
    with pytest.raises(InvalidArgument, match="is none"):
        decoded(b"\xff\xff\xff")
    with pytest.raises(InvalidArgument, match="empty record"):
        decoded(JournalRecord(version=VERSION).SerializeToString())
    nobody = JournalRecord(version=VERSION, committed=JournalRecord.Committed(tokens=[1], guessed_by=[1]))
    with pytest.raises(InvalidArgument, match="who guessed"):
        decoded(nobody.SerializeToString())
    half = replace(committed(0, 1, 2), logprobs=(LOGPROB,))
    with pytest.raises(InvalidArgument, match="only some have a log-probability"):
        decoded(encoded(half))


tenants_and_ids = st.tuples(st.text(max_size=8), st.text(max_size=8)) | st.tuples(
    st.text(alphabet=":%3Aa", max_size=5), st.text(alphabet=":%3Aa", max_size=5)
)


@given(tenants_and_ids, tenants_and_ids)
def test_no_tenant_can_make_anothers_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = [RequestKey(TenantId(tenant), RequestId(name)) for tenant, name in (one, other)]
    assert (keys[0].text == keys[1].text) == (one == other)
    assert [RequestKey.of(key.text) for key in keys] == keys


def test_records_are_put_together_in_order_or_not_at_all() -> None:
    found = recorded(KEY, [accepted(num_choices=2), committed(0, 1, 2), committed(0, 7, choice=1), committed(2, 3)])
    assert [choice.tokens for choice in found.choices] == [[1, 2, 3], [7]]
    assert found.num_records == 4
    wrongs: list[list[Record]] = [
        [],
        [committed(0, 1)],
        [accepted(), committed(1, 1)],
        [accepted(), committed(0, 1), committed(0, 1)],
        [accepted(), committed(0, 1, choice=1)],
        [accepted(), committed(0, 1), replace(committed(1, 1), logprobs=(LOGPROB,))],
        [accepted(), accepted()],
        [accepted(tenant=TenantId("other"))],
        [accepted(request_id="other")],
    ]
    for wrong in wrongs:
        with pytest.raises(Internal, match="journal of request t:r"):
            recorded(KEY, wrong)


def test_what_was_learned_outlives_the_router() -> None:
    """And a value that nobody can read takes nothing from the others."""
    tenant, drafter = TenantId("t/ä"), DrafterId("d")

    async def run() -> None:
        clock = VirtualClock()
        journal = MemoryJournal(clock, keep_s=1.0)
        leader = Leadership(journal, lease_s=10.0, now_s=clock.now_s)
        assert await leader.attempt()
        before, after = Roster(), Roster()
        features = prompt_features([1, 2, 3])
        before.expertise(tenant).learn(features, drafter, 0.75, 100.0)
        before.calibrator.learn(drafter, ScoreKind.COUNTED, 1, 0.5, chosen=True)
        await Learned(before, journal, leader, clock, every_s=1.0).keep()
        await journal.keep(leader.owner, "expertise:broken", b"{}")
        await journal.keep(leader.owner, "expertise:torn", b"{")
        await Learned(after, journal, leader, clock, every_s=1.0).read()
        assert expertise_to_state(after.expertise(tenant)) == expertise_to_state(before.expertise(tenant))
        assert after.expertise(tenant).agreement(features, drafter) == before.expertise(tenant).agreement(
            features, drafter
        )
        assert calibrator_to_state(after.calibrator) == calibrator_to_state(before.calibrator)
        assert [name for name, _ in after.learned()] == [tenant]

    asyncio.run(run())
