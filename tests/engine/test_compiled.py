"""The compiled step: the same bits as one layer after another, and a plain word where it cannot serve."""

from __future__ import annotations

import dataclasses
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.config import EngineConfig
from contracts.types import SamplingParams, SequenceId, Verdict
from engine.compiled import CompiledStep
from engine.engine import Engine
from engine.load import load_engine
from engine.work import Verify, Work
from kernels import native
from tests.engine.checkpoints import write_checkpoint
from tests.engine.conftest import ModelMaker
from tests.engine.rig import (
    GREEDY,
    Alone,
    Model,
    node,
    random_tokens,
    random_tree,
    same_bits,
    step_with_logits,
    verify_of,
)

A = SequenceId("a")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_whole_steps_have_the_same_bits_in_logits_and_cache(model_of: ModelMaker, dtype: str) -> None:
    """Steps that grow and shrink, so that buffers are reused and replaced; with rows whose logits nobody wants."""
    model = model_of(dtype)

    @settings(max_examples=10)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        engines = [model.engine(is_compiled=is_compiled) for is_compiled in (True, False)]
        lives = [play(engine, random.Random(seed)) for engine in engines]
        for compiled, by_layers in zip(*lives, strict=True):
            assert same_bits(compiled, by_layers)
        for name in ("keys", "values"):
            compiled, by_layers = (getattr(engine.executor.cache, name) for engine in engines)
            assert torch.equal(compiled.view(torch.uint8), by_layers.view(torch.uint8))

    check()


def play(engine: Engine, rng: random.Random) -> list[torch.Tensor]:
    """The logits of random steps, the same for every engine with the same randomness."""
    found: list[torch.Tensor] = []
    names = [SequenceId(str(number)) for number in range(4)]
    for name in names:
        engine.open(name, random_tokens(rng, rng.choice([1, 20, 90])), SamplingParams(temperature=0.9, seed=3))
    for size in (1, 4, 1, 2, 4, 1):
        work: list[Work] = []
        for name in rng.sample(names, size):
            pending = engine.num_pending(name)
            if pending > 1 and rng.random() < 0.5:
                work.append(Verify(sequence=name, num_pending=rng.randrange(1, pending)))
            else:
                work.append(verify_of(name, random_tree(rng, rng.choice([0, 6]), [])))
        found += step_with_logits(engine, work)[1]
    return found


@pytest.mark.parametrize("head_dim", [96, 112])
def test_head_sizes_whose_root_is_hard_to_round(tmp_path: Path, head_dim: int) -> None:
    """For these the scale of the scores differs by a bit if it is rounded before the division."""
    model = Model.load(write_checkpoint(tmp_path / "model", "qwen3", head_dim=head_dim), "float32")
    compiled, by_layers = (
        play(model.engine(is_compiled=is_compiled), random.Random(1)) for is_compiled in (True, False)
    )
    assert all(map(same_bits, compiled, by_layers))


@pytest.mark.parametrize(
    ("dtype", "sizes", "reason"),
    [
        ("float32", {"head_dim": 24}, "head_dim 24 is not a multiple of 16"),
        ("bfloat16", {"intermediate_size": 95}, "some matrices have an odd inner size"),
    ],
)
def test_shapes_that_are_not_served_run_layer_by_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: str, sizes: dict[str, Any], reason: str
) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3", **sizes)
    with caplog.at_level(logging.INFO, "engine.compiled"):
        engine = loaded(folder, dtype)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"no compiled step, layers run one by one: {reason}")
    assert engine.executor.compiled is None
    assert tokens_of(engine) == Alone(Model.load(folder, dtype), is_compiled=False).decode([9, 8, 7], GREEDY, 8)


def test_without_the_library_the_references_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    expected = tokens_of(loaded(folder, "float32"))
    with native.reference_only(), caplog.at_level(logging.INFO, "engine.compiled"):
        engine = loaded(folder, "float32")
        assert engine.executor.compiled is None
        assert tokens_of(engine) == expected
    assert len(caplog.records) == 1
    assert "no compiled step, layers run one by one" in caplog.records[0].message


def test_it_can_be_switched_off_and_on(checkpoint_folder: Path) -> None:
    on, off = loaded(checkpoint_folder, "bfloat16"), loaded(checkpoint_folder, "bfloat16", compiled_step="off")
    assert isinstance(on.executor.compiled, CompiledStep)
    assert off.executor.compiled is None
    assert tokens_of(on) == tokens_of(off)


def test_several_ranks_run_layer_by_layer(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    shard = dataclasses.replace(model.weights.shard, rank=0, num_ranks=2)
    cache = model.engine().executor.cache
    with caplog.at_level(logging.INFO, "engine.compiled"):
        assert CompiledStep.build(dataclasses.replace(model.weights, shard=shard), cache) is None
    assert "2 ranks meet inside every layer" in caplog.text


def loaded(folder: Path, dtype: str, **settings: Any) -> Engine:
    values = {"model": str(folder), "dtype": dtype, "num_threads": 1, "kv_cache_bytes": 2**22, **settings}
    return load_engine(EngineConfig.model_validate(values)).engine


def tokens_of(engine: Engine) -> list[int]:
    """Eight new tokens, with a draft on the way."""
    engine.open(A, [9, 8, 7], GREEDY)
    tokens: list[int] = []
    while len(tokens) < 8:
        outcome = engine.step([Verify(sequence=A, nodes=(node(11),))]).outcomes[0]
        assert isinstance(outcome, Verdict)
        tokens += outcome.tokens
    return tokens[:8]
