"""A round that finds no memory fails for its sequences, with what to lower; the verifier goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.local_group import local_engine
from engine.sampler import sample
from specfleet.v1 import fleet_pb2
from tests.engine.checkpoints import write_checkpoint
from tests.workers.router_side import item, opening
from tests.workers.verifier.test_verifier import config_of, node_of


def test_a_round_without_memory_ends_its_items_and_not_the_verifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = True

    def without_memory(*args: Any, **named: Any) -> Any:
        if is_full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sample(*args, **named)

    monkeypatch.setattr("engine.executor.sample", without_memory)
    with local_engine(config_of(write_checkpoint(tmp_path, "llama"))) as loaded:
        node = node_of(loaded)
        work = fleet_pb2.VerifierWork(open=[opening(1, [5, 6, 7]), opening(2, [8])])
        work.round.items.extend([item(1, 3), item(2, 1)])
        done = node.work(work)
        assert done is not None
        assert [(failure.sequence, failure.code) for failure in done.failures] == [(1, "Overloaded"), (2, "Overloaded")]
        assert all("lower engine.kv_cache_bytes" in failure.reason for failure in done.failures)
        is_full = False
        again = fleet_pb2.VerifierWork(close=[1])
        again.round.items.append(item(2, 1))
        done = node.work(again)
        assert done is not None
        assert [verdict.sequence for verdict in done.verdicts] == [2]
        node.reset()
        assert loaded.engine.num_free_blocks == loaded.engine.pool.num_blocks
