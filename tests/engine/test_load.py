"""What is settled before weights are read, for engines that need not be deterministic: on a GPU that is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.config import EngineConfig, MachineFacts, ResolvedEngineConfig
from contracts.errors import ConfigError, TopologyError
from engine.checkpoint import Checkpoint
from engine.load import load_engine
from engine.ranks import SingleRank
from kernels.prompts import WORKSPACE_BYTES
from tests.engine.checkpoints import write_checkpoint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose weights nobody may read."""
    monkeypatch.setattr("engine.load.load_weights", lambda *_, **__: pytest.fail("weights are being read"))
    return write_checkpoint(tmp_path, "llama")


class Enough(Exception):
    """What was to be seen has been seen."""


def test_flashinfer_is_refused_before_weights_are_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"deterministic is false and engine\.device is cpu"):
        load_engine(EngineConfig(model=str(folder), device="cpu", deterministic=False))


def test_the_plan_leaves_room_for_flashinfers_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = MachineFacts(num_cpus=2, memory_bytes=2**36, has_cuda=True, cuda_memory_bytes=2**36)
    planned: list[ResolvedEngineConfig] = []

    def flashinfer_for(config: ResolvedEngineConfig, head_dim: int) -> Any:
        planned.append(config)
        raise Enough

    monkeypatch.setattr("engine.load.machine_facts", lambda: machine)
    monkeypatch.setattr("engine.load.cuda_device", lambda rank, num_ranks: "cuda:0")
    monkeypatch.setattr("engine.load.flashinfer_for", flashinfer_for)
    with pytest.raises(Enough):
        load_engine(EngineConfig(model=str(folder), device="cuda", deterministic=False))
    with Checkpoint.open(folder) as checkpoint:
        weight_bytes = sum(2 * torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names)
    assert planned[0].kv_cache_bytes == int(0.9 * 2**36) - weight_bytes - WORKSPACE_BYTES


class Two(SingleRank):
    """Rank 0 of two; the other says `theirs`, or what rank 0 said is kept in its place."""

    size = 2
    theirs: torch.Tensor | None = None

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        if self.theirs is None:
            self.theirs = mine
            raise Enough
        return [mine, self.theirs]


def test_ranks_must_agree_on_whether_they_are_deterministic(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.load.flashinfer_for", lambda config, head_dim: None)
    ranks = Two()

    def load(*, deterministic: bool) -> None:
        config = EngineConfig(model=str(folder), device="cpu", tensor_parallel=2, deterministic=deterministic)
        load_engine(config, ranks=ranks)

    with pytest.raises(Enough):
        load(deterministic=True)
    with pytest.raises(
        TopologyError, match=r"and deterministic false, but ranks \[1\] run another .* deterministic; all"
    ):
        load(deterministic=False)
