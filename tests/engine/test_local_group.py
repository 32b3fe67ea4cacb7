"""Ranks as child processes: what happens when something goes wrong around them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from contracts.config import EngineConfig
from contracts.errors import RankLost, TopologyError
from contracts.types import SamplingParams, SequenceId
from engine.load import load_engine
from engine.local_group import local_engine
from engine.ranks import DistributedRanks
from engine.work import Verify
from tests.engine.checkpoints import write_checkpoint

A = SequenceId("a")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "llama")


def config_of(folder: Path, *, tensor_parallel: int = 2, dtype: str = "float32", kv: int = 2**22) -> EngineConfig:
    return EngineConfig.model_validate(
        {
            "model": str(folder),
            "dtype": dtype,
            "num_threads": 1,
            "tensor_parallel": tensor_parallel,
            "kv_cache_bytes": kv,
            "step_deadline_s": 20.0,
        }
    )


def test_an_error_in_the_block_ends_the_ranks_at_once_and_the_next_group_works(folder: Path) -> None:
    group = local_engine(config_of(folder))
    group.__enter__()
    started_s = time.monotonic()
    error = ZeroDivisionError()
    assert not group.__exit__(ZeroDivisionError, error, None)
    assert time.monotonic() - started_s < 8.0
    with local_engine(config_of(folder)) as loaded:
        loaded.engine.open(A, [5, 6, 7], SamplingParams())
        (verdict,) = loaded.engine.step([Verify(sequence=A)]).outcomes
        assert verdict is not None


def test_an_error_on_one_rank_in_mid_step_parts_the_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no more")

    with local_engine(config_of(folder)) as loaded:
        loaded.engine.open(A, [5, 6, 7], SamplingParams())
        with monkeypatch.context() as patch:
            patch.setattr("engine.executor.forward_layers", fails)
            with pytest.raises(MemoryError):
                loaded.engine.step([Verify(sequence=A)])
        with pytest.raises(RankLost):
            loaded.engine.step([Verify(sequence=A)])


def both(folder: Path, tmp_path: Path, first: EngineConfig, second: EngineConfig) -> list[object]:
    """What loading on each of two ranks, threads of this process, ends in."""
    results: list[object] = [None, None]

    def load(rank: int, config: EngineConfig) -> None:
        ranks = DistributedRanks(address=f"file://{tmp_path / 'meet'}", rank=rank, size=2, deadline_s=20.0)
        try:
            results[rank] = load_engine(config, ranks=ranks).engine
        except TopologyError as error:
            results[rank] = error

    threads = [threading.Thread(target=load, args=(rank, config)) for rank, config in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_ranks_that_would_compute_different_things_are_refused(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama", seed=1)
    for error in both(folder, tmp_path, config_of(folder), config_of(other)):
        assert isinstance(error, TopologyError)
        assert "another checkpoint" in str(error)


def test_the_smallest_cache_counts_for_all(folder: Path, tmp_path: Path) -> None:
    engines = both(folder, tmp_path, config_of(folder), config_of(folder, kv=2**20))
    sizes = {engine.pool.num_blocks for engine in engines}  # type: ignore[attr-defined]  # loading succeeded
    alone = load_engine(config_of(folder, tensor_parallel=1, kv=2**21)).engine.pool.num_blocks
    assert sizes == {alone}  # half the heads in half the memory


def test_an_engine_says_what_it_computes_in(folder: Path) -> None:
    loaded = load_engine(config_of(folder, tensor_parallel=1, dtype="bfloat16"))
    assert loaded.engine.identity.dtype == "bfloat16"
    assert loaded.engine.executor.weights.dtype == torch.bfloat16
