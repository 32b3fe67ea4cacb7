"""An engine whose layers' weights are rounded: another model, with all the promises of the first."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Literal

import pytest
import torch

from contracts.config import EngineConfig
from contracts.errors import ConfigError
from contracts.types import SamplingParams, SequenceId, Verdict
from engine.checkpoint import Checkpoint
from engine.devices import check_fp8
from engine.load import LoadedEngine, load_engine
from engine.topology import Shard
from engine.weights import load_weights
from engine.work import Verify
from kernels.linear import Linear
from kernels.quantised import QuantisedLinear, quantise
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import random_tokens, random_tree, same_bits, step_with_logits, verify_of

A = SequenceId("a")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("quantised"), "qwen2", dtype="bfloat16")


def engine_of(folder: Path, weights: Literal["none", "int8", "fp8"]) -> LoadedEngine:
    return load_engine(
        EngineConfig(model=str(folder), weights=weights, device="cpu", num_threads=1, kv_cache_bytes=2**22)
    )


@pytest.mark.parametrize("weights", ["int8", "fp8"])
def test_drafts_change_no_token_and_no_bit(folder: Path, weights: Literal["int8", "fp8"]) -> None:
    loaded = engine_of(folder, weights)
    engine = loaded.engine
    rng = random.Random(3)
    for sampling in (SamplingParams(), SamplingParams(temperature=0.9, top_p=0.9, seed=4)):
        prompt = random_tokens(rng, 20)
        engine.open(A, prompt, sampling)
        alone: dict[int, torch.Tensor] = {}
        while len(engine.tokens_of(A)) < len(prompt) + 12:
            before = len(engine.tokens_of(A))
            _, (logits,) = step_with_logits(engine, [Verify(sequence=A)])
            alone[before] = logits[0]
        truth = list(engine.tokens_of(A))[len(prompt) :]
        engine.close(A)
        engine.open(A, prompt, sampling)
        done: list[int] = []
        while len(done) < 8:
            tree = random_tree(rng, 5, truth[len(done) : len(done) + 3])
            result, (logits,) = step_with_logits(engine, [verify_of(A, tree)])
            (outcome,) = result.outcomes
            assert isinstance(outcome, Verdict)
            assert same_bits(logits[0], alone[len(prompt) + len(done)])
            done += outcome.tokens
            assert done == truth[: len(done)]
        engine.close(A)


def test_it_is_another_model_near_the_first_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {}
    with caplog.at_level(logging.WARNING):
        for weights in ("none", "int8", "fp8"):
            loaded = engine_of(folder, weights)
            loaded.engine.open(A, [9, 8, 7], SamplingParams())
            _, (found[weights],) = step_with_logits(loaded.engine, [Verify(sequence=A)])
            identity = loaded.engine.identity
            assert identity.dtype == ("bfloat16" if weights == "none" else f"bfloat16, weights rounded to {weights}")
    for weights, most in (("int8", 0.15), ("fp8", 0.4)):
        error = float((found[weights] - found["none"]).norm() / found["none"].norm())
        assert 0.0 < error < most
        assert any(f"rounded to {weights}: as a target it answers as another model" in x for x in caplog.messages)
    assert len(caplog.messages) == 2


def test_every_matrix_of_a_layer_is_rounded_and_no_other(folder: Path) -> None:
    weights, plain = (engine_of(folder, kind).engine.executor.weights for kind in ("int8", "none"))
    x = torch.randn(2, weights.shard.config.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
    for layer, before in zip(weights.layers, plain.layers, strict=True):
        for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down):
            assert isinstance(matrix, QuantisedLinear)
        assert isinstance(before.qkv, Linear)
        identity = torch.eye(before.qkv.inner).bfloat16()
        bias = torch.zeros(()) if before.qkv.bias is None else before.qkv.bias[: before.qkv.outputs]
        numbers, scales = quantise((before.qkv(identity) - bias).T.bfloat16(), "int8")
        expected = x.double() @ (numbers.double() * scales.double()[:, None]).T + bias.double()
        torch.testing.assert_close(layer.qkv(x).double(), expected, rtol=1e-2, atol=1e-2)
    assert isinstance(weights.head, Linear)
    assert isinstance(weights.embedding, Linear)


@pytest.mark.parametrize("weights", ["int8", "fp8"])
def test_any_number_of_ranks_rounds_to_the_same_model(folder: Path, weights: Literal["int8", "fp8"]) -> None:
    """The matrices that are cut by columns: side by side, the ranks' parts have the bits of the whole."""
    with Checkpoint.open(folder) as checkpoint:
        alone, *parts = (
            load_weights(
                checkpoint,
                Shard(config=checkpoint.config, rank=rank, num_ranks=num_ranks),
                torch.bfloat16,
                max_context=8,
                quantised=weights,
            )
            for rank, num_ranks in ((0, 1), (0, 2), (1, 2))
        )
    for index, layer in enumerate(alone.layers):
        for name in ("output", "down"):
            whole, *cut = (read_back(getattr(each.layers[index], name)) for each in (alone, *parts))
            assert same_bits(torch.cat(cut, dim=1), whole)
            assert (getattr(layer, name).outputs, getattr(layer, name).inner) == tuple(whole.shape)


def read_back(matrix: QuantisedLinear) -> torch.Tensor:
    """What it multiplies by, [outputs, inner]: one product of a number and its factor each."""
    return matrix(torch.eye(matrix.inner).bfloat16()).T.contiguous()


def test_fp8_needs_a_gpu_that_knows_it() -> None:
    check_fp8((8, 9))
    with pytest.raises(
        ConfigError, match=r"engine.weights is 'fp8', .* this one has 8\.0; it must be int8 or none here"
    ):
        check_fp8((8, 0))
