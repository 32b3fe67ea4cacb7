"""A row's logits are the same bits whatever surrounds it: neighbours, chunks, trees, forks, cache layout, prefixes.

Each example follows one sequence through a random life beside others, and compares every logit of its rows with those
of the same tokens computed alone, one at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.model
import kernels.linear
from contracts.types import SamplingParams, SequenceId, Verdict
from engine.engine import Engine
from engine.work import Draft, Verify, Work
from kernels.paged import KVCache, Rows
from tests.engine.conftest import ModelMaker
from tests.engine.rig import (
    GREEDY,
    Alone,
    Model,
    path_tokens,
    random_tokens,
    random_tree,
    running,
    same_bits,
    step_with_logits,
    verify_of,
)

NUM_TOKENS = 10
MOST_NEIGHBOURS = 3

# dtype, compiled step, references alone. Float32 references are left out: torch's own matrix product promises nothing.
MODES = {
    "bfloat16-compiled": ("bfloat16", True, False),
    "bfloat16-layers": ("bfloat16", False, False),
    "bfloat16-reference": ("bfloat16", False, True),
    "float32-compiled": ("float32", True, False),
    "float32-layers": ("float32", False, False),
}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_the_same_bits_as_alone(model_of: ModelMaker, mode: str) -> None:
    dtype, is_compiled, is_reference = MODES[mode]
    model = model_of(dtype, is_reference)

    @settings(max_examples=4 if is_reference else 25)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        check_life(model, random.Random(seed), is_compiled=is_compiled)

    with running(is_reference):
        check()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_number_of_threads_changes_no_bit(model_of: ModelMaker, dtype: str) -> None:
    for seed in range(3):
        check_life(model_of(dtype), random.Random(seed), is_compiled=True, num_threads=3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_long_contexts_are_the_same_bits_too(model_of: ModelMaker, dtype: str) -> None:
    """Across 1024 keys, where ordinary attention changes its way of working."""
    rng = random.Random(0)
    prompt = random_tokens(rng, 1020)
    alone = Alone(model_of(dtype), is_compiled=True)
    truth = alone.decode(prompt, GREEDY, 8)
    engine, name = model_of(dtype).engine(max_batch_rows=2048), SequenceId("long")
    engine.open(name, prompt, GREEDY)
    engine.step([Verify(sequence=name, num_pending=333)])
    nodes = [(token, index - 1) for index, token in enumerate(truth[:7])]
    result, (logits,) = step_with_logits(engine, [verify_of(name, nodes)])
    verdict = result.outcomes[0]
    assert isinstance(verdict, Verdict)
    assert list(verdict.tokens) == truth
    for count, row in enumerate(logits):
        assert same_bits(row, alone.logits_after([*prompt, *truth[:count]]))


def test_ordinary_attention_would_be_noticed(model_of: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("float32")
    check_life(model, random.Random(0), is_compiled=False)
    monkeypatch.setattr(engine.model, "attention", ordinary_attention)
    with pytest.raises(AssertionError, match="other bits"):
        check_lives(model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_ordinary_matrix_product_would_be_noticed(
    model_of: ModelMaker, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    model = model_of(dtype, True)
    if ordinary_product_is_invariant(model.weights.dtype):
        pytest.skip(f"on this processor the library's own {dtype} product has the same bits for any number of rows")

    def ordinary_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.linear(x, weight).float() + (0.0 if bias is None else bias)

    monkeypatch.setattr(kernels.linear, "linear_reference", ordinary_linear)
    with running(True), pytest.raises(AssertionError, match="other bits"):
        check_lives(model)


def ordinary_product_is_invariant(dtype: torch.dtype) -> bool:
    """Whether a row of torch's own product depends on how many rows there are, at inner sizes as of the model's."""
    generator = torch.Generator().manual_seed(0)
    for inner in (64, 1100):
        x = torch.randn(40, inner, generator=generator).to(dtype)
        weight = torch.randn(256, inner, generator=generator).to(dtype)
        whole = F.linear(x, weight)
        if not all(torch.equal(F.linear(x[:rows], weight), whole[:rows]) for rows in (1, 2, 3, 5, 8, 17, 33)):
            return False
    return True


def test_keys_in_cache_order_would_be_noticed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of floats are not associative: ancestors read where they happen to lie give other bits."""
    monkeypatch.setattr(engine.model, "attention", attention_in_cache_order)
    with pytest.raises(AssertionError, match="other bits"):
        check_lives(model)


def check_lives(model: Model) -> None:
    for seed in range(5):
        check_life(model, random.Random(seed), is_compiled=False)


def check_life(model: Model, rng: random.Random, *, is_compiled: bool, num_threads: int = 1) -> None:
    """One random life of a sequence; every logit of its rows must equal, bit for bit, what it is alone."""
    prompt = random_tokens(rng, rng.choice([1, 2, 15, 16, 17, rng.randrange(18, 50)]))
    noisy = SamplingParams(temperature=0.8, top_p=0.9, presence_penalty=0.5, seed=rng.getrandbits(64))
    sampling = rng.choice([GREEDY, noisy])
    alone = Alone(model, is_compiled=is_compiled)
    truth = alone.decode(prompt, sampling, NUM_TOKENS)

    busy = model.engine(is_compiled=is_compiled, prefix_cache=rng.random() < 0.7, num_threads=num_threads)
    crowd = Crowd(busy, rng)
    for _ in range(rng.randrange(4)):  # blocks taken and given back out of order
        busy.step(crowd.work())
    if rng.random() < 0.5:  # somebody had the same beginning before
        busy.open(SequenceId("before"), prompt[: rng.randrange(1, len(prompt) + 1)], GREEDY)
        busy.step([Verify(sequence=SequenceId("before"))])
        busy.close(SequenceId("before"))

    name = SequenceId("watched")
    busy.open(name, prompt, sampling)
    done: list[int] = []
    while len(done) < NUM_TOKENS:
        mine, nodes = random_work(busy, name, rng, truth[len(done) :])
        work = [mine, *crowd.work()]
        rng.shuffle(work)
        result, logits = step_with_logits(busy, work)
        place = work.index(mine)
        for choice, row in enumerate(logits[place]):
            expected = alone.logits_after([*prompt, *done, *path_tokens(nodes, choice - 1)])
            assert same_bits(row, expected), f"row {choice} of {mine} has other bits"
        outcome = result.outcomes[place]
        if isinstance(outcome, Verdict):
            assert outcome.position == len(prompt) + len(done)
            done += outcome.tokens
            assert done == [*truth, *done[NUM_TOKENS:]][: len(done)], "other tokens"
        if rng.random() < 0.15:
            twin = SequenceId(f"{name}'")
            busy.fork(name, twin, sampling)
            if rng.random() < 0.5:
                busy.close(name)
            else:
                crowd.names.append(name)
            name = twin
    for open_name in [name, *crowd.names]:
        busy.close(open_name)
    busy.pool.check()
    assert busy.num_free_blocks == busy.pool.num_blocks


def random_work(
    busy: Engine, name: SequenceId, rng: random.Random, truth: Sequence[int]
) -> tuple[Verify, list[tuple[int, int]]]:
    """A chunk of what is pending, a plain step, or a step with a tree; with the tree's nodes."""
    pending = busy.num_pending(name)
    if pending > 1 and rng.random() < 0.6:
        return Verify(sequence=name, num_pending=rng.randrange(1, pending)), []
    nodes = random_tree(rng, rng.choice([0, 0, 1, 3, 7, 12]), truth)
    return verify_of(name, nodes), nodes


class Crowd:
    """Other sequences that come, work and go."""

    def __init__(self, busy: Engine, rng: random.Random) -> None:
        self.engine, self.rng = busy, rng
        self.names: list[SequenceId] = []
        self._num_born = 0

    def work(self) -> list[Work]:
        """What all of them do in the next step; at least one does something."""
        rng = self.rng
        if not self.names or (len(self.names) < MOST_NEIGHBOURS and rng.random() < 0.4):
            self.names.append(SequenceId(f"neighbour {self._num_born}"))
            self._num_born += 1
            self.engine.open(self.names[-1], random_tokens(rng, rng.randrange(1, 40)), SamplingParams(temperature=1.0))
        elif len(self.names) > 1 and rng.random() < 0.3:
            self.engine.close(self.names.pop(rng.randrange(len(self.names))))
        return [self._work_of(name) for name in self.names]

    def _work_of(self, name: SequenceId) -> Work:
        if self.rng.random() < 0.3:
            self.engine.drop_nodes(name)
            nodes = random_tree(self.rng, 5, []) if self.engine.num_pending(name) else [(7, -1)]
            return Draft(sequence=name, nodes=tuple(nodes))
        self.engine.drop_nodes(name)
        if self.engine.num_pending(name) == 0:
            self.engine.commit(name, [self.rng.randrange(5, 320)])
        return random_work(self.engine, name, self.rng, [])[0]


def ordinary_attention(
    queries: torch.Tensor,  # [rows, heads * head_dim]
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    window: int,
) -> torch.Tensor:
    """The usual way: all rows padded to the longest, one call with a mask."""
    slots = [rows.slots_in_order(row)[-window:] for row in range(rows.count)]
    longest = max(len(found) for found in slots)
    is_key = torch.tensor([[lane < len(found) for lane in range(longest)] for found in slots])
    padded = torch.stack([F.pad(found, (0, longest - len(found)), value=int(found[0])) for found in slots])
    shape = (rows.count, longest, cache.num_kv_heads, cache.head_dim)
    keys, values = (x.view(shape).transpose(1, 2) for x in cache.read(layer, padded.flatten()))
    attended = F.scaled_dot_product_attention(
        queries.view(rows.count, -1, 1, cache.head_dim), keys, values, is_key[:, None, None], enable_gqa=True
    )
    return attended.reshape(queries.shape)


def attention_in_cache_order(
    queries: torch.Tensor,  # [rows, heads * head_dim]
    rows: Rows,
    cache: KVCache,
    layer: int,
    *,
    window: int,
) -> torch.Tensor:
    """Row by row and without padding, but over the keys as they lie in memory."""
    out = torch.empty_like(queries)
    for row in range(rows.count):
        slots = rows.slots_in_order(row)[-window:].sort().values
        keys, values = (x.float().transpose(0, 1) for x in cache.read(layer, slots))
        query = queries[row].float().view(cache.num_kv_heads, -1, 1, cache.head_dim)
        weights = torch.softmax((query * keys[:, None]).sum(-1) * cache.head_dim**-0.5, dim=-1)
        out[row] = (weights[..., None] * values[:, None]).sum(-2).flatten()
    return out
