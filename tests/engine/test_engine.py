"""What the engine refuses, and that it says why; that its reports and verdicts count right."""

from __future__ import annotations

import random

import pytest
import torch

from contracts.clock import SystemClock
from contracts.errors import AlreadyExists, Internal, InvalidArgument, NotFound
from contracts.types import ROOT, Epoch, SamplingParams, SequenceId, Verdict
from engine.engine import Engine
from engine.work import Draft, Drafted, Verify, Work
from tests.engine.rig import GREEDY, Model, node, random_tokens, verify_of

A, B = SequenceId("a"), SequenceId("b")
MASK = bytes([255] * 40)


@pytest.fixture
def engine(model: Model) -> Engine:
    found = model.engine(max_batch_rows=64)
    found.open(A, [9, 8, 7], GREEDY)
    return found


def test_sequences_that_are_not_there_are_named(engine: Engine) -> None:
    for call in (
        lambda: engine.step([Verify(sequence=A), Verify(sequence=B)]),
        lambda: engine.commit(B, [5]),
        lambda: engine.close(B),
        lambda: engine.fork(B, SequenceId("c"), GREEDY),
        lambda: engine.drop_nodes(B),
        lambda: engine.tokens_of(B),
        lambda: engine.num_pending(B),
    ):
        with pytest.raises(NotFound, match="sequence b is not open"):
            call()
    assert engine.num_pending(A) == 3


def test_a_sequence_opens_once(engine: Engine) -> None:
    with pytest.raises(AlreadyExists, match="sequence a is open already"):
        engine.open(A, [5], GREEDY)
    with pytest.raises(AlreadyExists, match="sequence a is open already"):
        engine.fork(A, A, GREEDY)
    assert engine.tokens_of(A) == (9, 8, 7)
    engine.close(A)
    engine.open(A, [5], GREEDY)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "sequence b has no tokens"),
        ([5, 320], "sequence b holds token 320; the vocabulary has 320"),
        ([-1], "sequence b holds token -1"),
        ([5] * 2049, "sequence b has 2049 tokens; the context holds 2048"),
    ],
)
def test_impossible_prompts_are_refused(engine: Engine, tokens: list[int], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        engine.open(B, tokens, GREEDY)
    engine.open(B, [5], GREEDY)


def test_sampling_about_tokens_that_are_not_there_is_refused(engine: Engine) -> None:
    for sampling, message in (
        (SamplingParams(logit_bias={400: 1.0}), "logit_bias holds token 400; the vocabulary has 320"),
        (SamplingParams(allowed_token_ids=(5, 321)), "allowed_token_ids holds token 321"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            engine.open(B, [5], sampling)
        with pytest.raises(InvalidArgument, match=message):
            engine.fork(A, B, sampling)


@pytest.mark.parametrize("num_prompt", [-1, 4])
def test_a_prompt_longer_than_its_tokens_is_refused(engine: Engine, num_prompt: int) -> None:
    with pytest.raises(InvalidArgument, match=f"num_prompt of sequence b is {num_prompt}; it has 3 tokens"):
        engine.open(B, [9, 8, 7], GREEDY, num_prompt=num_prompt)


@pytest.mark.parametrize("num_pending", [-1, 0, 4])
def test_more_or_less_than_what_is_pending_is_refused(engine: Engine, num_pending: int) -> None:
    with pytest.raises(InvalidArgument, match=f"num_pending of sequence a is {num_pending}; it must be from 1 to 3"):
        engine.step([Verify(sequence=A, num_pending=num_pending)])


def test_steps_without_sense_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="a step without work"):
        engine.step([])
    with pytest.raises(InvalidArgument, match="num_top is 0"):
        engine.step([Draft(sequence=A)], num_top=0)
    engine.step([Draft(sequence=A)])
    with pytest.raises(InvalidArgument, match="num_pending of sequence a is 0"):
        engine.step([Draft(sequence=A)])
    engine.step([Draft(sequence=A, nodes=((10, ROOT),))])
    engine.commit(A, [11])
    engine.step([Draft(sequence=A, nodes=((10, ROOT),))])
    with pytest.raises(InvalidArgument, match=r"num_pending of sequence a is 0; it must be from 1 to 0"):
        engine.step([Verify(sequence=A)])


def test_commits_are_held_against_vocabulary_and_context(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="commit to sequence a holds token 320"):
        engine.commit(A, [5, 320])
    with pytest.raises(InvalidArgument, match="sequence a with 2046 more has 2049 tokens; the context holds 2048"):
        engine.commit(A, [5] * 2046)
    assert engine.tokens_of(A) == (9, 8, 7)


def test_the_context_ends_where_the_model_says(model: Model) -> None:
    engine = model.engine(num_blocks=160, max_batch_rows=4096)
    engine.open(A, random_tokens(random.Random(0), 2046), GREEDY)
    with pytest.raises(InvalidArgument, match="the deepest path of sequence a has 2049 tokens"):
        engine.step([verify_of(A, [(5, ROOT), (5, 0), (5, 1)])])
    engine.step([verify_of(A, [(5, ROOT), (5, 0)])])
    while len(engine.tokens_of(A)) < 2049:  # the last token decided lies past the end and is reported all the same
        engine.step([Verify(sequence=A)])
    with pytest.raises(InvalidArgument, match="sequence a has 2049 tokens; the context holds 2048"):
        engine.step([Verify(sequence=A)])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ((MASK,), r"has 1 masks; one for its last token and each of 1 nodes make 2"),
        ((MASK, MASK, None), r"has 3 masks"),
        ((MASK, MASK[1:]), r"has 39 bytes, 39 of them not zero; it needs 40 bytes"),
        ((None, bytes(40)), r"has 40 bytes, 0 of them not zero; .* at least one token"),
        ((bytes([1] + [0] * 39), None), r"has 40 bytes, 1 of them not zero; .* at least one token"),
    ],
)
def test_masks_that_cannot_be_are_refused(model: Model, masks: tuple[bytes | None, ...], message: str) -> None:
    engine = model.engine()
    engine.open(A, [9, 8, 7], SamplingParams(allowed_token_ids=(5, 6)))
    with pytest.raises(InvalidArgument, match=message):
        engine.step([Verify(sequence=A, nodes=(node(7),), masks=masks)])
    assert engine.num_free_blocks == engine.pool.num_blocks


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_k=3, top_p=0.9)]
)
def test_logits_that_are_no_numbers_are_our_fault_and_harm_nobody_else(model: Model, sampling: SamplingParams) -> None:
    engine = model.engine()
    engine.open(A, [9, 8, 7], GREEDY)
    engine.open(B, [9, 8, 7], sampling)
    engine.step([Verify(sequence=A), Verify(sequence=B)])
    first = engine._sequences[B].table[0]
    kept = engine.executor.cache.values[:, first].clone()
    engine.executor.cache.values[:, first] = float("nan")
    before = (engine.tokens_of(B), engine.num_pending(B), engine.num_free_blocks)
    fine, failed = engine.step([verify_of(A, [(10, ROOT)]), verify_of(B, [(10, ROOT)])]).outcomes
    assert isinstance(fine, Verdict)
    assert isinstance(failed, Internal)
    assert failed.message == "sequence b has no token to choose: its logits are not finite"
    assert (engine.tokens_of(B), engine.num_pending(B), engine.num_free_blocks) == before
    engine.executor.cache.values[:, first] = kept
    work = [verify_of(A, [(10, ROOT)]), verify_of(B, [(10, ROOT)])]
    assert all(isinstance(outcome, Verdict) for outcome in engine.step(work).outcomes)


class TickingClock(SystemClock):
    """Every look at it is 0.25 s later than the one before."""

    def __init__(self) -> None:
        self._now_s = 10.0

    def now_s(self) -> float:
        self._now_s += 0.25
        return self._now_s


def test_a_report_counts_rows_context_sequences_and_time(model: Model) -> None:
    busy = model.engine()
    engine = Engine(busy.executor, model.identity, max_context=512, max_batch_rows=64, clock=TickingClock())
    engine.open(A, [9, 8, 7], GREEDY)
    engine.open(B, random_tokens(random.Random(0), 20), GREEDY)
    report = engine.step([verify_of(A, [(5, ROOT), (6, ROOT), (7, 1)]), Verify(sequence=B, num_pending=4)]).report
    assert report.num_rows == 3 + 3 + 4
    assert report.num_context == (1 + 2 + 3) + (4 + 4 + 5) + (1 + 2 + 3 + 4)
    assert report.num_sequences == 2
    assert report.num_rows_pruned == 0
    assert report.elapsed_s == 0.25
    report = engine.step([Verify(sequence=B)]).report
    assert (report.num_rows, report.num_context) == (16, sum(range(5, 21)))


def test_outcomes_come_in_the_order_of_the_work_with_epochs_and_positions(model: Model) -> None:
    engine, c = model.engine(), SequenceId("c")
    engine.open(A, [9, 8, 7], GREEDY, epoch=Epoch(3))
    engine.open(B, [9, 8, 7, 6], GREEDY)
    engine.open(c, [9, 8], GREEDY)
    work: list[Work] = [Verify(sequence=B, num_pending=2), Verify(sequence=A), Draft(sequence=c)]
    chunk, verdict, drafted = engine.step(work, num_top=4).outcomes
    assert chunk is None
    assert isinstance(verdict, Verdict)
    assert (verdict.sequence, verdict.epoch, verdict.position, verdict.next_position) == (A, 3, 3, 4)
    assert engine.tokens_of(A) == (9, 8, 7, *verdict.tokens)
    assert isinstance(drafted, Drafted)
    assert [(proposal.parent, len(proposal.candidates)) for proposal in drafted.proposals] == [(ROOT, 4)]
    engine.fork(A, SequenceId("d"), GREEDY, epoch=Epoch(7))
    forked = engine.step([Verify(sequence=SequenceId("d"))]).outcomes[0]
    assert isinstance(forked, Verdict)
    assert (forked.epoch, forked.position) == (7, 4)


def test_a_drafter_and_its_target_choose_alike(model: Model) -> None:
    """Promise 2: the first candidate of a draft is what a target with the same logits takes."""
    sampling = SamplingParams(temperature=1.0, seed=77)
    target, drafter = model.engine(), model.engine()
    for engine in (target, drafter):
        engine.open(A, [9, 8, 7], sampling)
    for _ in range(20):
        drafted = drafter.step([Draft(sequence=A)], num_top=2).outcomes[0]
        verdict = target.step([Verify(sequence=A)]).outcomes[0]
        assert isinstance(drafted, Drafted)
        assert isinstance(verdict, Verdict)
        first, second = drafted.proposals[0].candidates
        assert first.token == verdict.tokens[0]
        assert first.value >= second.value
        drafter.commit(A, verdict.tokens)


def test_the_cache_starts_unread(model: Model) -> None:
    """The engines of these tests start with a cache full of NaN, so that reading what was never written shows."""
    engine = model.engine()
    assert bool(torch.isnan(engine.executor.cache.keys).all())
