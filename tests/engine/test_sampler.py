"""From logits to tokens: processors against plain numpy, vocabulary shards, log-probabilities, masks, shared noise."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.types import ROOT, SamplingParams, SequenceId, Verdict
from engine.history import TokenHistory
from engine.message import StepMessage
from engine.model_config import ModelConfig
from engine.ranks import SingleRank
from engine.sampler import Sampled, sample
from engine.topology import Shard
from engine.work import Draft, Drafted, Verify
from kernels import gpu
from kernels.noise import noise_reference
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import (
    GREEDY,
    Model,
    node,
    path_tokens,
    random_tokens,
    random_tree,
    running,
    step_with_logits,
    verify_of,
)
from tests.kernels.gpu.interpreter import interpreter

A, B = SequenceId("a"), SequenceId("b")
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one row of a step asks of the sampler."""

    logits: Array  # [vocabulary] float32
    sampling: SamplingParams
    position: int
    edits: dict[int, tuple[float, float]] = field(default_factory=dict)  # token -> (repetition factor, addend)
    allowed: Array | None = None  # [vocabulary] bool


def random_row(rng: random.Random, vocab_size: int, *, is_limited: bool = True) -> Row:
    generator = np.random.default_rng(rng.getrandbits(32))
    # Flat ones too: then hundreds of tokens share the mass, and the first candidates are not enough.
    logits = (generator.standard_normal(vocab_size) * rng.choice([0.1, 1.0, 4.0])).astype(np.float32)
    sampling = SamplingParams(
        temperature=rng.choice([0.0, 0.3, 0.7, 1.0, 2.5]),
        top_k=rng.choice([0, 0, 1, 3, 20, vocab_size, 10**6]) if is_limited else 0,
        top_p=rng.choice([1.0, 1.0, 0.1, 0.5, 0.9, 0.999]) if is_limited else 1.0,
        min_p=rng.choice([0.0, 0.0, 0.02, 0.3, 1.0]) if is_limited else 0.0,
        seed=rng.getrandbits(64),
    )
    edits = {
        rng.randrange(vocab_size): (rng.choice([1.0, 1.3, 0.5]), rng.uniform(-5, 5)) for _ in range(rng.randrange(6))
    }
    allowed = generator.random(vocab_size) < 0.4 if rng.random() < 0.4 else None
    if allowed is not None:
        allowed[rng.randrange(vocab_size)] = True
    return Row(logits=logits, sampling=sampling, position=rng.randrange(10**6), edits=edits, allowed=allowed)


def message_of(rows: Sequence[Row], *, num_top: int, num_likeliest: int = 0) -> StepMessage:
    edits = [(i, token, *edit) for i, row in enumerate(rows) for token, edit in row.edits.items()]
    masks = [(i, np.packbits(row.allowed, bitorder="little")) for i, row in enumerate(rows) if row.allowed is not None]
    wanted = [row.sampling for row in rows]
    return StepMessage(
        num_rows=len(rows),
        num_table_entries=0,
        num_top=num_top,
        num_likeliest=num_likeliest,
        num_more=0,
        more_below=0,
        is_limited=any(not s.is_greedy and (s.top_k > 0 or s.top_p < 1 or s.min_p > 0) for s in wanted),
        rows=np.zeros(0, "<i4"),
        tokens=np.zeros(0, "<i8"),
        chosen=np.arange(len(rows), dtype="<i4"),
        copies=np.zeros(0, "<i8"),
        hook_layers=np.zeros(0, "<i4"),
        seeds=np.array([s.seed for s in wanted], "<u8"),
        positions=np.array([row.position for row in rows], "<u8"),
        settings=np.array([(s.temperature, s.top_k, s.top_p, s.min_p) for s in wanted], "<f8").reshape(-1, 4),
        edits=np.array([edit[:2] for edit in edits], "<i8").reshape(-1, 2),
        edit_values=np.array([edit[2:] for edit in edits], "<f4").reshape(-1, 2),
        masks=np.array([mask for _, mask in masks], "<u1"),
        masked=np.array([index for index, _ in masks], "<i4"),
    )


def shard_of(vocab_size: int, rank: int = 0, num_ranks: int = 1) -> Shard:
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 6}
    config = {"model_type": "llama", "max_position_embeddings": 8, "vocab_size": vocab_size, **sizes}
    return Shard(config=ModelConfig.parse(config), rank=rank, num_ranks=num_ranks)


def logits_of(rows: Sequence[Row]) -> torch.Tensor:
    return torch.from_numpy(np.stack([row.logits for row in rows]))


def by_numpy(row: Row, num_real_tokens: int) -> tuple[Array, Array]:
    """Which tokens may be chosen, and the value of each: the rules one after another, in float64."""
    x = row.logits.astype(np.float64)
    x[num_real_tokens:] = -np.inf
    for token, (factor, addend) in row.edits.items():
        x[token] = (x[token] / factor if x[token] > 0 else x[token] * factor) + addend
    if row.allowed is not None:
        x[~row.allowed] = -np.inf
    s = row.sampling
    if s.is_greedy:
        return x > -np.inf, x
    x = x / s.temperature
    may = x > -np.inf
    if s.top_k > 0:
        may &= x >= np.sort(x)[::-1][min(s.top_k, len(x)) - 1]
    if s.top_p < 1.0:
        order = np.argsort(-np.where(may, x, -np.inf), kind="stable")
        chance = np.where(may, np.exp(x - x.max()), 0.0)[order]
        before = np.cumsum(chance) - chance
        may[order[before >= s.top_p * chance.sum()]] = False
    if s.min_p > 0.0:
        may &= np.exp(x - x.max()) >= s.min_p * (1 - 1e-12)
    return may, x + noise_reference(s.seed, row.position, 0, len(x)).numpy()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), vocab_size=st.sampled_from([5, 37, 64, 65, 300, 1000]))
def test_processors_do_what_plain_numpy_does(seed: int, vocab_size: int) -> None:
    rng = random.Random(seed)
    rows = [random_row(rng, vocab_size) for _ in range(4)]
    num_real = vocab_size if any(row.edits or row.allowed is not None for row in rows) else vocab_size - 1
    found = sample(
        logits_of(rows),
        message_of(rows, num_top=vocab_size),
        SingleRank(),
        shard_of(vocab_size),
        num_real_tokens=num_real,
    )
    for index, row in enumerate(rows):
        may, values = by_numpy(row, num_real)
        tokens = [token for token in found.tokens[index].tolist() if token >= 0]
        assert set(tokens) == set(np.flatnonzero(may).tolist())
        np.testing.assert_allclose(found.values[index, : len(tokens)].numpy(), values[tokens], rtol=2e-5, atol=2e-5)
        assert tokens[0] == int(np.argmax(np.where(may, values, -np.inf)))


def test_neighbours_and_ranks_do_not_move_a_limit_that_meets_equals() -> None:
    """Far more tokens are equal to the k-th than the first candidates show."""
    logits = np.full(1000, 1.0, dtype=np.float32)
    logits[:40] = 3.0
    sampling = SamplingParams(temperature=1.0, top_k=64, top_p=0.9, seed=5)
    rows = [Row(logits=logits, sampling=sampling, position=p) for p in range(64)]
    greedy_of_many = SamplingParams(temperature=1.0, top_k=500)
    neighbour = Row(logits=random_row(random.Random(0), 1000).logits, sampling=greedy_of_many, position=9)

    def chosen(batch: Sequence[Row]) -> list[int]:
        message = message_of(batch, num_top=1)
        sampled = sample(logits_of(batch), message, SingleRank(), shard_of(1000), num_real_tokens=1000)
        parts = sample_sharded(batch, 3, message, num_real_tokens=1000, is_reference=False)
        assert all(part.tokens.tolist() == sampled.tokens.tolist() for part in parts)
        return [int(token) for token in sampled.tokens[: len(rows), 0]]

    assert chosen([*rows, neighbour]) == chosen(rows)
    assert max(chosen(rows)) > 40  # some of the equals are chosen


class ThreadRanks:
    """Ranks as threads of this process: every gather meets all of them."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, board: list[torch.Tensor | None]) -> None:
        self.rank, self.size, self._barrier, self._board = rank, size, barrier, board

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        self._board[self.rank] = mine
        self._barrier.wait(20)
        parts = [part.clone() for part in self._board if part is not None]
        self._barrier.wait(20)
        return parts

    def join_sum(self, partial: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the sampler adds nothing up")

    def send(self, message: bytes) -> None:
        raise AssertionError("the sampler sends nothing")

    def receive(self) -> bytes:
        raise AssertionError("the sampler receives nothing")

    def close(self) -> None:
        pass


class RanksInTurn(ThreadRanks):
    """One computes at a time: Triton's interpreter is made for one thread."""

    turn = threading.Lock()

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        self.turn.release()
        try:
            return super().gather(mine)
        finally:
            self.turn.acquire()


def sample_sharded(
    rows: Sequence[Row], num_ranks: int, message: StepMessage, *, num_real_tokens: int, is_reference: bool
) -> list[Sampled]:
    """What each of the ranks finds."""
    barrier, board = threading.Barrier(num_ranks), [None] * num_ranks
    logits, vocab_size = logits_of(rows), len(rows[0].logits)
    is_on_gpu = gpu.runs(logits)  # a setting of this thread

    def run(rank: int) -> Sampled:
        shard = shard_of(vocab_size, rank, num_ranks)
        kind = RanksInTurn if is_on_gpu else ThreadRanks
        ranks = kind(rank, num_ranks, barrier, board)  # type: ignore[arg-type]  # a list of what is not there yet
        mine = logits[:, shard.vocabulary].clone()
        if is_on_gpu:
            with gpu.interpreted(), RanksInTurn.turn:
                return sample(mine, message, ranks, shard, num_real_tokens=num_real_tokens)
        with running(is_reference):
            return sample(mine, message, ranks, shard, num_real_tokens=num_real_tokens)

    with ThreadPoolExecutor(num_ranks) as threads:
        return list(threads.map(run, range(num_ranks)))


@pytest.mark.parametrize(("num_ranks", "is_reference"), [(2, False), (3, False), (3, True)])
def test_a_sharded_vocabulary_chooses_the_same(num_ranks: int, is_reference: bool) -> None:
    @settings(max_examples=10 if is_reference else 40)
    @given(seed=st.integers(0, 2**32 - 1), vocab_size=st.sampled_from([7, 37, 100, 301, 1000]))
    def check(seed: int, vocab_size: int) -> None:
        rng = random.Random(seed)
        rows = [random_row(rng, vocab_size) for _ in range(3)]
        num_real = rng.choice([vocab_size, vocab_size - 1, max(vocab_size // 2, 1)])
        for row in rows:  # something must be left to choose
            if row.allowed is not None:
                row.allowed[0] = True
        message = message_of(rows, num_top=5, num_likeliest=4)
        whole = sample(logits_of(rows), message, SingleRank(), shard_of(vocab_size), num_real_tokens=num_real)
        assert whole.logprobs is not None
        assert whole.likeliest is not None
        for part in sample_sharded(rows, num_ranks, message, num_real_tokens=num_real, is_reference=is_reference):
            assert part.tokens.tolist() == whole.tokens.tolist()
            assert torch.equal(part.values, whole.values)
            assert part.logprobs is not None
            assert part.likeliest is not None
            real = whole.tokens >= 0
            torch.testing.assert_close(part.logprobs[real], whole.logprobs[real], rtol=0, atol=1e-5)
            assert part.likeliest[1].tolist() == whole.likeliest[1].tolist()
            torch.testing.assert_close(part.likeliest[0], whole.likeliest[0], rtol=0, atol=1e-5)

    check()


def test_a_group_of_gpus_chooses_what_a_group_of_processors_does() -> None:
    rng = random.Random(7)
    rows = [random_row(rng, 101, is_limited=index > 0) for index in range(4)]
    message = message_of(rows, num_top=3, num_likeliest=2)
    assert message.is_limited
    assert message.masked.size
    expected = sample_sharded(rows, 2, message, num_real_tokens=95, is_reference=False)[0]
    with interpreter():
        parts = sample_sharded(rows, 2, message, num_real_tokens=95, is_reference=False)
    for part in parts:
        assert part.tokens.tolist() == expected.tokens.tolist()
        assert torch.equal(part.values, expected.values)
        assert part.logprobs is not None
        assert expected.logprobs is not None
        real = expected.tokens >= 0
        torch.testing.assert_close(part.logprobs[real], expected.logprobs[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_real_tokens", [300, 150])
def test_logprobs_are_those_of_the_unprocessed_distribution(num_real_tokens: int) -> None:
    rng = random.Random(0)
    rows = [random_row(rng, 300, is_limited=False) for _ in range(6)]
    message = message_of(rows, num_top=3, num_likeliest=5)
    found = sample(logits_of(rows), message, SingleRank(), shard_of(300), num_real_tokens=num_real_tokens)
    expected = torch.log_softmax(logits_of(rows)[:, :num_real_tokens].double(), dim=-1)
    assert found.logprobs is not None
    assert found.likeliest is not None
    best = expected.topk(5)
    assert found.likeliest[1].tolist() == best.indices.tolist()
    torch.testing.assert_close(found.likeliest[0], best.values, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.logprobs, expected.gather(1, found.tokens), rtol=0, atol=1e-5)


NOISY = {
    "temperature": SamplingParams(temperature=0.7),
    "top-p": SamplingParams(temperature=1.0, top_p=0.8),
    "penalties": SamplingParams(
        temperature=0.7,
        repetition_penalty=1.4,
        presence_penalty=0.9,
        frequency_penalty=0.6,
        logit_bias={9: 2.0, 50: -4.0},
    ),
    "everything": SamplingParams(
        temperature=1.0, top_k=60, top_p=0.9, min_p=0.001, repetition_penalty=1.2, frequency_penalty=0.7
    ),
    "greedy with penalties": SamplingParams(repetition_penalty=1.5, frequency_penalty=1.0, presence_penalty=1.0),
}


@pytest.mark.parametrize("name", NOISY)
def test_drafts_never_change_what_is_sampled(model: Model, name: str) -> None:
    """Verified rows give the very token of plain decoding, whatever the drafts: promise 1."""

    @settings(max_examples=30)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        rng = random.Random(seed)
        sampling = SamplingParams(**{**_fields(NOISY[name]), "seed": rng.getrandbits(64)})
        prompt = random_tokens(rng, rng.randrange(1, 30))
        plain = model.engine()
        plain.open(A, prompt, sampling)
        for _ in range(16):
            plain.step([Verify(sequence=A)])
        truth = list(plain.tokens_of(A))[len(prompt) :]

        busy = model.engine()
        busy.open(A, prompt, sampling)
        done: list[int] = []
        while len(done) < 10:
            tree = random_tree(rng, rng.randrange(12), truth[len(done) : len(done) + 5], rightness=rng.random())
            outcome = busy.step([verify_of(A, tree)]).outcomes[0]
            assert isinstance(outcome, Verdict)
            done += outcome.tokens
            assert done == truth[: len(done)]

    check()


def _fields(sampling: SamplingParams) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in SamplingParams.__slots__}


def test_penalties_count_prompt_and_answer_as_documented(model: Model) -> None:
    """Repetition looks at prompt and answer; presence and frequency at the answer and the path of the row."""
    sampling = SamplingParams(
        repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={40: 1.5}
    )
    engine, prompt, answer = model.engine(), [30, 31], [40, 40]
    engine.open(A, prompt + answer, sampling, num_prompt=2)
    tree = [(31, ROOT), (60, 0)]
    result, (logits,) = step_with_logits(engine, [Draft(sequence=A, nodes=tuple(tree))], num_top=320)
    outcome = result.outcomes[0]
    assert isinstance(outcome, Drafted)
    for proposal, raw in zip(outcome.proposals, logits, strict=True):
        generated = answer + path_tokens(tree, proposal.parent)
        expected = raw.clone().double()
        for token in {*prompt, *generated}:
            expected[token] = expected[token] / 2.0 if expected[token] > 0 else expected[token] * 2.0
        expected[40] += 1.5
        for token in set(generated):
            expected[token] -= 0.5 + 0.25 * generated.count(token)
        values = {candidate.token: candidate.value for candidate in proposal.candidates}
        torch.testing.assert_close(
            torch.tensor([values[token] for token in range(320)]).double(), expected, rtol=1e-5, atol=1e-5
        )


PENALTIES = [{}, {"repetition_penalty": 1.3}, {"presence_penalty": 0.7}, {"frequency_penalty": -0.1}]
FEW_TOKENS = st.lists(st.integers(0, 7), max_size=6)


@settings(max_examples=60)
@given(
    prompt=FEW_TOKENS,
    commits=st.lists(FEW_TOKENS, max_size=4),
    path=FEW_TOKENS,
    penalties=st.lists(st.sampled_from(PENALTIES), max_size=3),
    logit_bias=st.dictionaries(st.integers(0, 9), st.sampled_from([0.1, -100.0]), max_size=3),
)
def test_a_history_is_what_counting_all_tokens_again_would_give(
    prompt: list[int],
    commits: list[list[int]],
    path: list[int],
    penalties: list[dict[str, float]],
    logit_bias: dict[int, float],
) -> None:
    sampling = SamplingParams(logit_bias=logit_bias, **{name: x for some in penalties for name, x in some.items()})  # type: ignore[arg-type]
    history, tokens = TokenHistory(sampling, len(prompt)), list(prompt)
    for commit in [[], *commits]:
        tokens += commit
        edited, values = history.edits(tokens, path)
        found = dict(zip(edited.tolist(), values.tolist(), strict=True))
        expected = {token: (1.0, bias) for token, bias in logit_bias.items()}
        generated = tokens[len(prompt) :] + path
        for token in {*generated, *(prompt if sampling.repetition_penalty != 1.0 else ())} if history.is_active else ():
            count = generated.count(token)
            penalty = sampling.frequency_penalty * count + (sampling.presence_penalty if count else 0.0)
            expected[token] = (sampling.repetition_penalty, logit_bias.get(token, 0.0) - penalty)
        assert found == {token: np.array(edit, np.float32).tolist() for token, edit in expected.items()}
        assert len(found) == edited.size


def test_a_row_does_not_pay_for_each_token_of_a_long_history() -> None:
    tokens = list(range(30_000))
    history = TokenHistory(SamplingParams(repetition_penalty=1.1), len(tokens))
    history.edits(tokens, [])
    started = time.process_time()
    for row in range(40):
        edited, _ = history.edits([*tokens, row], [row, 40_000])
        assert edited.size == 30_001
    assert time.process_time() - started < 0.5


def test_a_verdict_carries_the_logprobs_that_its_sequence_asked_for(model: Model) -> None:
    engine, prompt = model.engine(), [9, 8, 7]
    engine.open(A, prompt, SamplingParams(num_logprobs=2, temperature=0.9, seed=5))
    engine.open(B, prompt, SamplingParams(num_logprobs=7))
    result, (logits, _) = step_with_logits(engine, [Verify(sequence=A), Verify(sequence=B)])
    expected = torch.log_softmax(logits.double(), dim=-1)[0]
    for outcome, count in zip(result.outcomes, (2, 7), strict=True):
        assert isinstance(outcome, Verdict)
        (found,) = outcome.logprobs
        assert found.token == outcome.tokens[0]
        assert found.logprob == pytest.approx(float(expected[found.token]), abs=1e-5)
        assert [token for token, _ in found.top] == expected.topk(count).indices.tolist()
        assert [value for _, value in found.top] == pytest.approx(expected.topk(count).values.tolist(), abs=1e-5)
    plain = model.engine()
    plain.open(A, prompt, GREEDY)
    outcome = plain.step([Verify(sequence=A)]).outcomes[0]
    assert isinstance(outcome, Verdict)
    assert outcome.logprobs == ()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_allowed_tokens_and_masks_bind_every_row(model: Model, temperature: float) -> None:
    rng = random.Random(0)
    allowed = tuple(rng.sample(range(5, 320), 12))
    for seed in range(20):
        engine = model.engine()
        engine.open(A, [9, 8, 7], SamplingParams(temperature=temperature, allowed_token_ids=allowed, seed=seed))
        masks = [rng.sample(allowed, 4) for _ in range(3)]
        nodes = (node(masks[0][0]), node(masks[0][1]))
        packed = tuple(bits([*tokens, 5 + seed]) for tokens in masks[:2])
        outcome = engine.step([Verify(sequence=A, nodes=nodes, masks=(*packed, None))]).outcomes[0]
        assert isinstance(outcome, Verdict)
        assert outcome.tokens[0] in {*masks[0], 5 + seed} & set(allowed)
        if outcome.accepted == (0,):
            assert outcome.tokens[1] in {*masks[1], 5 + seed} & set(allowed)
        if outcome.accepted == (1,):
            assert outcome.tokens[1] in allowed


def bits(tokens: Sequence[int], vocab_size: int = 320) -> bytes:
    mask = np.zeros(vocab_size, bool)
    mask[list(tokens)] = True
    return np.packbits(mask, bitorder="little").tobytes()


def test_padding_of_the_vocabulary_is_never_chosen(tmp_path: Path) -> None:
    padded = Model.load(write_checkpoint(tmp_path / "model", "llama", vocab_size=500), "float32")
    assert (padded.identity.vocab_size, padded.num_real_tokens) == (500, 320)
    num_tempted = 0
    for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (20.0, 0.9)):
        engine = padded.engine()
        engine.open(A, [9, 8, 7], SamplingParams(temperature=temperature, top_p=top_p, num_logprobs=3))
        for _ in range(25):
            result, (logits,) = step_with_logits(engine, [Verify(sequence=A)])
            num_tempted += int(logits[0].argmax()) >= 320
            (outcome,) = result.outcomes
            assert isinstance(outcome, Verdict)
            assert outcome.tokens[0] < 320
            assert all(token < 320 for token, _ in outcome.logprobs[0].top)
            assert math.isfinite(outcome.logprobs[0].logprob)
    assert num_tempted > 10
