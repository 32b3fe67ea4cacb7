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
from engine.model_config import ModelConfig
from engine.ranks import SingleRank
from engine.workspace import workspace_bytes
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
    machine = MachineFacts(
        num_cpus=2, memory_bytes=2**36, has_cuda=True, cuda_memory_bytes=2**36, cuda_free_bytes=2**36
    )
    planned: list[ResolvedEngineConfig] = []

    def flashinfer_for(config: ResolvedEngineConfig, head_dim: int) -> Any:
        planned.append(config)
        raise Enough

    monkeypatch.setattr("engine.load.machine_facts", lambda device, rank: machine)
    monkeypatch.setattr("engine.load.cuda_device", lambda rank, num_ranks: "cuda:0")
    monkeypatch.setattr("engine.load.flashinfer_for", flashinfer_for)
    with pytest.raises(Enough):
        load_engine(EngineConfig(model=str(folder), device="cuda", deterministic=False), gpu_share=0.5)
    with Checkpoint.open(folder) as checkpoint:
        weight_bytes = sum(2 * torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names)
        for_steps = workspace_bytes(checkpoint.config, num_ranks=1, max_batch_rows=512, max_context=512)
    assert planned[0].kv_cache_bytes == int(0.9 * 2**35) - weight_bytes - WORKSPACE_BYTES - for_steps


def test_the_workspace_of_a_large_model_is_bounded_where_its_texts_are_long() -> None:
    """Of Llama 3.1 8B: attention's scratch at 131,072 tokens would be 8 GiB."""
    shape = {"model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336}
    config = ModelConfig.parse({**shape, **heads, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5})
    logits = 512 * 128_256 * 4
    scratch, stream, inner = 512 * 32 * 8 * 130 * 4, 512 * 3 * 4096 * 4, 512 * 3 * 14_336 * 4

    def planned(num_ranks: int, max_context: int) -> int:
        return workspace_bytes(config, num_ranks=num_ranks, max_batch_rows=512, max_context=max_context)

    assert planned(1, 131_072) == 2 * (stream + inner) + 2 * 2**28 + 4 * logits
    assert planned(1, 1024) == 2 * (stream + inner) + 2 * scratch + 4 * logits
    assert planned(4, 1024) == 2 * stream + (2 * inner + 2 * scratch + 4 * logits) // 4


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
