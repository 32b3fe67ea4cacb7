"""From the wire and back: nothing is lost, and what the house would not make itself is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.sampling import MAX_SEED
from contracts.types import Epoch, Feedback, SamplingParams, StepReport, TokenLogprob, Verdict
from specfleet.v1 import fleet_pb2, types_pb2
from tests.workers.router_side import opening, wire_sampling
from workers.wire import (
    MAX_NODES,
    ask_of,
    commit_of,
    opening_of,
    report_to_wire,
    sampling_of,
    sequence_id,
    verdict_to_wire,
    verify_of,
)

samplings = st.builds(
    SamplingParams,
    temperature=st.just(0.0) | st.floats(0.01, 10.0),
    top_k=st.integers(0, 1000),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    repetition_penalty=st.floats(0.5, 2.0),
    presence_penalty=st.floats(-2.0, 2.0),
    frequency_penalty=st.floats(-2.0, 2.0),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100.0, 100.0), max_size=4),
    allowed_token_ids=st.none() | st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple),
    seed=st.integers(0, MAX_SEED),
    num_logprobs=st.integers(0, 64),
)


@given(samplings)
def test_sampling_crosses_unchanged(sampling: SamplingParams) -> None:
    content = wire_sampling(sampling).SerializeToString()
    assert sampling_of(types_pb2.Sampling.FromString(content)) == sampling


def test_what_is_absent_changes_nothing() -> None:
    assert sampling_of(types_pb2.Sampling()) == SamplingParams()


WRONG: list[tuple[str, Callable[[types_pb2.Sampling], None]]] = [
    ("temperature", lambda message: setattr(message, "temperature", float("nan"))),
    ("top_p", lambda message: setattr(message, "top_p", 0.0)),
    ("repetition_penalty", lambda message: setattr(message, "repetition_penalty", 0.0)),
    ("logit_bias", lambda message: message.logit_bias.update({2**31: 1.0})),
    ("logit_bias", lambda message: message.logit_bias.update({1: float("inf")})),
    ("allowed_token_ids", lambda message: message.allowed_token_ids.SetInParent()),
    ("num_logprobs", lambda message: setattr(message, "num_logprobs", 65)),
]


@pytest.mark.parametrize(("field", "spoil"), WRONG)
def test_sampling_that_makes_no_sense_is_refused(field: str, spoil: Callable[[types_pb2.Sampling], None]) -> None:
    message = types_pb2.Sampling()
    spoil(message)
    with pytest.raises(InvalidArgument, match=field):
        sampling_of(message)


def test_openings_and_commits_are_taken_as_they_are() -> None:
    opened = opening_of(opening(2**64 - 1, [3, 1], SamplingParams(seed=7), tenant="täglich"))
    assert (opened.sequence, opened.tenant, opened.tokens) == (sequence_id(2**64 - 1), "täglich", (3, 1))
    assert opened.sampling.seed == 7
    top = [types_pb2.TokenLogprob.Alternative(token=5, logprob=-0.25)]
    message = fleet_pb2.Commit(
        sequence=1, position=9, tokens=[5], logprobs=[types_pb2.TokenLogprob(token=5, logprob=-0.25, top=top)]
    )
    assert commit_of(message, with_logprobs=False).logprobs == ()
    committed = commit_of(message, with_logprobs=True)
    assert (committed.position, committed.tokens) == (9, (5,))
    assert committed.logprobs == (TokenLogprob(token=5, logprob=-0.25, top=((5, -0.25),)),)


def test_wants_are_bounded_and_zero_leaves_it_to_the_drafter() -> None:
    ask = ask_of(fleet_pb2.Want(sequence=1, num_nodes=2**32 - 1, below=[4]))
    assert (ask.num_nodes, ask.below, ask.max_depth, ask.max_children) == (MAX_NODES, (4,), None, None)
    ask = ask_of(fleet_pb2.Want(sequence=1, num_nodes=3, max_depth=2, max_children=1))
    assert (ask.num_nodes, ask.max_depth, ask.max_children) == (3, 2, 1)


@pytest.mark.parametrize("node", [{"confidence": float("nan")}, {"confidence": 1.5}, {"parent": -2}])
def test_nodes_that_make_no_sense_are_refused(node: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        verify_of(fleet_pb2.Round.Item(sequence=1, nodes=[fleet_pb2.DraftNode(**node)]))


def test_pending_is_all_or_so_many_and_empty_masks_are_none() -> None:
    assert verify_of(fleet_pb2.Round.Item(sequence=1)).num_pending is None
    assert verify_of(fleet_pb2.Round.Item(sequence=1, num_pending=0)).num_pending == 0
    assert verify_of(fleet_pb2.Round.Item(sequence=1, masks=[b"", b"\1"])).masks == (None, b"\1")


@pytest.mark.parametrize("pruned", [(False, False), (True, False)])
def test_a_verdict_says_who_was_pruned_if_anyone_was(pruned: tuple[bool, ...]) -> None:
    verdict = Verdict(
        sequence=sequence_id(2**64 - 1),
        epoch=Epoch(3),
        position=17,
        accepted=(1,),
        tokens=(8, 9),
        logprobs=(TokenLogprob(token=8, logprob=-0.5, top=((8, -0.5),)), TokenLogprob(token=9, logprob=-1.0)),
        feedback=tuple(Feedback(parent_accepted=True, chosen=n == 1, pruned=each) for n, each in enumerate(pruned)),
    )
    message = verdict_to_wire(verdict)
    assert (message.sequence, message.epoch, message.position) == (2**64 - 1, 3, 17)
    assert (list(message.accepted), list(message.tokens)) == ([1], [8, 9])
    assert [(found.token, found.logprob, len(found.top)) for found in message.logprobs] == [(8, -0.5, 1), (9, -1.0, 0)]
    assert list(message.pruned) == (list(pruned) if any(pruned) else [])


def test_reports_cross_whole() -> None:
    report = StepReport(num_rows=5, num_context=2**40, num_sequences=2, elapsed_s=0.25, num_rows_pruned=1)
    message = report_to_wire(report)
    assert (message.num_rows, message.num_context, message.num_sequences) == (5, 2**40, 2)
    assert (message.elapsed_s, message.num_rows_pruned, message.is_untypical) == (0.25, 1, False)
    assert report_to_wire(dataclasses.replace(report, is_typical=False)).is_untypical
