"""A round on a GPU waits for it once, whatever is asked of the sampler."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from contracts.types import ROOT, SamplingParams, SequenceId, Verdict
from engine.captured import CapturedSteps
from engine.executor import LayerHook
from engine.host_copy import wait_for
from engine.likelier import num_likelier
from engine.ranks import SingleRank
from engine.weights import Weights
from engine.work import Outcome, Verify
from kernels.pinned import pinned_zeros, to_device
from tests.engine.checkpoints import write_checkpoint
from tests.engine.device_reads import device_reads, lies_there
from tests.engine.rig import Model
from tests.engine.test_captured import again
from tests.engine.test_gpu import SIZES, TREE
from tests.kernels.gpu.interpreter import interpreter

A, B = SequenceId("a"), SequenceId("b")
EVERYTHING = SamplingParams(
    temperature=0.9,
    top_k=20,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.3,
    presence_penalty=0.5,
    logit_bias={40: 2.0},
    allowed_token_ids=tuple(range(5, 200)),
    num_logprobs=2,
    seed=3,
)


def test_a_round_waits_for_the_device_once_and_decides_as_the_cpu_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel by kernel, then captured and replayed, with keys to be copied first; log-probabilities as near as sums."""
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)  # fewer programs: each takes milliseconds here
    monkeypatch.setattr("kernels.gpu.pick._LIMIT_BLOCK", 512)
    sizes = {**SIZES, "num_hidden_layers": 1}
    folder = write_checkpoint(tmp_path, "llama", dtype="float32", head_dim=16, **sizes)
    cpu = Model.load(folder, "float32").engine(is_compiled=False, num_blocks=8)
    with interpreter():
        gpu = Model.load(folder, "float32").engine(is_compiled=False, num_blocks=8)
        steps = CapturedSteps(gpu.executor.weights, SingleRank(), gpu.executor.cache, capture=again)
        lies_there(steps._logits)
        gpu.executor.compiled = steps
    for engine in (cpu, gpu):
        engine.open(A, [9], EVERYTHING)
    for sequence in (A, B):
        work = [Verify(sequence=sequence, nodes=TREE[:1])]
        (expected,) = cpu.step(work).outcomes
        with interpreter(), device_reads() as reads:
            (found,) = gpu.step(work).outcomes
        assert reads == ["copy_"]
        assert isinstance(found, Verdict)
        assert isinstance(expected, Verdict)
        assert found.tokens == expected.tokens
        for mine, theirs in zip(found.logprobs, expected.logprobs, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]
        if sequence == A:
            for engine in (cpu, gpu):
                engine.fork(A, B, EVERYTHING)
                engine.close(A)
            assert gpu._copies, "nothing is to be copied, and so no copy was looked at"
    assert steps.num_graphs == 1


def test_what_crosses_from_memory_that_is_not_pinned_is_seen() -> None:
    numbers, there = torch.tensor([1, 2], dtype=torch.int32), torch.device("cpu")
    with device_reads() as reads:
        place = to_device(numbers, there)
        place.copy_(pinned_zeros(2, there), non_blocking=True)
        assert reads == []
        numbers.to(there, non_blocking=True)
        place.copy_(numbers, non_blocking=True)
        place.copy_(pinned_zeros(2, there))
        torch.tensor([1, 2], device=there)
    assert reads == ["to", "copy_", "copy_", "tensor"]
    assert place.tolist() == [0, 0]


def test_a_step_that_chooses_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its time would be that of launching it."""
    waited: list[torch.device] = []
    monkeypatch.setattr("engine.executor.wait_for", waited.append)
    engine = Model.load(write_checkpoint(tmp_path, "llama"), "float32").engine()
    engine.open(A, [9, 8, 7], SamplingParams())
    engine.step([Verify(sequence=A, num_pending=2)])
    assert waited == [torch.device("cpu")]
    engine.step([Verify(sequence=A)])
    assert len(waited) == 1


def test_waiting_is_for_the_current_stream_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(
        "torch.cuda.current_stream",
        lambda device: SimpleNamespace(synchronize=lambda: waited.append(device)),
    )
    wait_for(torch.device("cpu"))
    wait_for(torch.device("cuda:1"))
    assert waited == [torch.device("cuda:1")]


class Look(LayerHook):
    """Between two layers: what the nodes' tokens are worth at the row before them, and one row that leaves."""

    layers: tuple[int, ...] = (0,)

    def __init__(self, weights: Weights, likelier: list[list[int]]) -> None:
        self._weights, self._likelier = weights, likelier

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        found = num_likelier(
            self._weights, hidden, np.array([0, 0]), np.array([node.token for node in SIBLINGS]), num_real_tokens=300
        )
        self._likelier.append(found.tolist())
        return rows != 1


SIBLINGS = tuple(dataclasses.replace(node, parent=ROOT) for node in TREE[:2])


def test_a_look_between_layers_waits_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)
    folder = write_checkpoint(tmp_path, "llama", dtype="float32", head_dim=16, **{**SIZES, "num_hidden_layers": 2})
    likelier: list[list[int]] = []
    work = [Verify(sequence=A, nodes=SIBLINGS)]
    outcomes: list[Outcome] = []
    for context in (contextlib.nullcontext(), interpreter()):
        with context:
            engine = Model.load(folder, "float32").engine(is_compiled=False, num_blocks=8)
            engine.open(A, [9], SamplingParams())
            look = Look(engine.executor.weights, likelier)
            if likelier:
                with device_reads() as reads:
                    outcomes += engine.step(work, hook=look).outcomes
            else:
                outcomes += engine.step(work, hook=look).outcomes
    assert reads == ["copy_", "copy_"]
    assert likelier[0] == likelier[1]
    assert outcomes[0] == outcomes[1]
