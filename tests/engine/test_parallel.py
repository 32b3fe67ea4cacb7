"""Ranks as real processes: they agree with themselves and with one rank, and a lost one is an error in time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

from contracts.config import EngineConfig
from contracts.errors import RankLost, TopologyError
from engine.load import load_engine
from engine.model_config import ModelConfig
from engine.ranks import DistributedRanks
from engine.topology import Shard
from tests.engine import rank_main
from tests.engine.checkpoints import write_checkpoint

DEADLINE_S = 1.5
PATIENCE_S = 60.0  # of the test itself; a busy machine is no failure

# One server process imports torch once; each rank is then a fork of it, a few milliseconds away.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.engine.rank_main"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes that divide over 2 and 3 ranks; the vocabulary of 320 is uneven over 3."""
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "intermediate_size": 132,
    }
    return write_checkpoint(
        tmp_path_factory.mktemp("parallel") / "model",
        "qwen3",
        tie=True,
        attention_bias=True,
        **sizes,
    )


@pytest.fixture
def started() -> Iterator[list[BaseProcess]]:
    """The processes of a test; none may outlive it."""
    processes: list[BaseProcess] = []
    yield processes
    leaked = [process for process in processes if process.is_alive()]
    for process in leaked:
        process.kill()
        process.join()
    assert not leaked, f"processes {[process.pid for process in leaked]} outlived their test"


class Group:
    """All ranks of an engine, playing a script."""

    def __init__(
        self,
        started: list[BaseProcess],
        folder: Path,
        rendezvous: Path,
        script: str,
        *,
        dtype: str = "float32",
        size: int = 2,
    ) -> None:
        config = engine_config(folder, dtype=dtype, size=size).model_dump()
        self._pipe, theirs = context.Pipe()
        self.ranks = [
            context.Process(
                target=rank_main.run_rank,
                args=(config, f"file://{rendezvous}", rank, script, theirs if rank == 0 else None),
            )
            for rank in range(size)
        ]
        for process in self.ranks:
            process.start()
            started.append(process)
        theirs.close()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process in self.ranks:
                process.kill()
        for process in self.ranks:
            process.join(PATIENCE_S)
        self._pipe.close()

    def heard(self) -> Any:
        """What rank 0 says next."""
        assert self._pipe.poll(PATIENCE_S), "rank 0 says nothing"
        return self._pipe.recv()

    def go_on(self) -> None:
        self._pipe.send("go on")

    def signal(self, rank: int, number: signal.Signals) -> None:
        pid = self.ranks[rank].pid
        assert pid is not None
        os.kill(pid, number)

    @property
    def exit_codes(self) -> list[int | None]:
        for process in self.ranks:
            process.join(PATIENCE_S)
        return [process.exitcode for process in self.ranks]


def engine_config(folder: Path, *, dtype: str, size: int) -> EngineConfig:
    return EngineConfig.model_validate(
        {
            "model": str(folder),
            "dtype": dtype,
            "num_threads": 1,
            "tensor_parallel": size,
            "kv_cache_bytes": 2**22,
            "step_deadline_s": DEADLINE_S if size == 2 else 20.0,
        }
    )


def played(
    started: list[BaseProcess], folder: Path, tmp_path: Path, script: str, *, dtype: str = "float32", size: int = 2
) -> Any:
    """The outcome of a script, after all ranks went home by themselves."""
    rendezvous = tmp_path / f"rendezvous {len(started)}"
    with Group(started, folder, rendezvous, script, dtype=dtype, size=size) as group:
        outcome = group.heard()
        assert group.exit_codes == [0] * size
    return outcome


@pytest.mark.parametrize(("dtype", "size"), [("float32", 2), ("bfloat16", 2), ("float32", 3)])
def test_ranks_equal_themselves_bitwise_and_one_rank_nearly(
    started: list[BaseProcess], folder: Path, tmp_path: Path, dtype: str, size: int
) -> None:
    first, second = (played(started, folder, tmp_path, "decode", dtype=dtype, size=size) for _ in range(2))
    assert first == second
    if dtype == "float32":
        whole = rank_main.decode(load_engine(engine_config(folder, dtype=dtype, size=1)).engine)
        assert first["tokens"] == whole["tokens"]
        for key in ("logits", "logprobs"):
            torch.testing.assert_close(torch.tensor(first[key]), torch.tensor(whole[key]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 3)])
def test_rows_do_not_depend_on_their_neighbours_with_ranks_either(
    started: list[BaseProcess], folder: Path, tmp_path: Path, dtype: str, size: int
) -> None:
    outcome = played(started, folder, tmp_path, "invariance", dtype=dtype, size=size)
    assert len(outcome["alone"]) == 4
    assert outcome["alone"] == outcome["together"]


def test_a_hook_on_rank_0_drops_rows_on_all(started: list[BaseProcess], folder: Path, tmp_path: Path) -> None:
    outcome = played(started, folder, tmp_path, "hook")
    assert outcome["pruned"] == outcome["plain"]
    assert outcome["num_pruned"] > 0
    assert "whose keys later steps will read" in outcome["refused"]


@pytest.mark.parametrize("script", rank_main.LOSSES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_is_an_error_within_the_deadline(
    started: list[BaseProcess], folder: Path, tmp_path: Path, script: str, number: signal.Signals
) -> None:
    with Group(started, folder, tmp_path / "rendezvous", script) as group:
        assert group.heard() == "ready"
        group.signal(1, number)
        if number == signal.SIGKILL:
            group.ranks[1].join(PATIENCE_S)
        group.go_on()
        outcome = group.heard()
        group.signal(1, signal.SIGKILL) if number == signal.SIGSTOP else None
        assert "rank 0 lost touch with its group of 2" in outcome["message"]
        assert f"deadline {DEADLINE_S:.3g} s" in outcome["message"]
        assert outcome["elapsed_s"] < DEADLINE_S + 1.0
        assert group.exit_codes == [0, -signal.SIGKILL]


def test_a_rank_that_stops_before_it_listens_is_an_error_too(started: list[BaseProcess], tmp_path: Path) -> None:
    address, (ours, theirs) = f"file://{tmp_path / 'rendezvous'}", context.Pipe()
    started.append(context.Process(target=rank_main.send_until_lost, args=(address, theirs)))
    started.append(context.Process(target=rank_main.join_and_stop, args=(address,)))
    for process in started:
        process.start()
    heard = ours.poll(PATIENCE_S)
    started[1].kill()
    for process in started:
        process.join(PATIENCE_S)
    assert heard, "rank 0 waits without end"
    assert 0.9 < ours.recv() < 1.0 + 5.0, "its deadline ended it, and no connection that was closed"


@pytest.mark.parametrize("script", rank_main.LOSSES)
def test_followers_end_when_rank_0_dies(started: list[BaseProcess], folder: Path, tmp_path: Path, script: str) -> None:
    with Group(started, folder, tmp_path / "rendezvous", script) as group:
        assert group.heard() == "ready"
        group.signal(0, signal.SIGKILL)
        began_s = time.monotonic()
        assert group.exit_codes == [-signal.SIGKILL, rank_main.LOST]
        assert time.monotonic() - began_s < DEADLINE_S + 5.0


def test_a_group_that_never_meets_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RankLost, match=r"rank 0 could not join its group of 2 at file://.* within"):
        DistributedRanks(
            address=f"file://{tmp_path / 'nobody'}", rank=0, size=2, deadline_s=DEADLINE_S, start_deadline_s=1.0
        )


def test_sizes_that_do_not_divide_are_refused_with_the_numbers(folder: Path) -> None:
    config = ModelConfig.load(folder)
    with pytest.raises(TopologyError) as refused:
        Shard(config=config, rank=0, num_ranks=4)
    message = refused.value.message
    for part in ("num_heads 6", "num_kv_heads 6", "mlp_size 132", "4 ranks", "possible numbers of ranks: [1, 2, 3, 6]"):
        assert part in message
    with pytest.raises(TopologyError, match="rank 3 of 3 ranks"):
        Shard(config=config, rank=3, num_ranks=3)


def test_shards_cover_everything_once(folder: Path) -> None:
    config = ModelConfig.load(folder)
    for num_ranks in (1, 2, 3, 6):
        shards = [Shard(config=config, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        for name, size in (
            ("heads", config.q_size),
            ("kv_heads", config.kv_size),
            ("mlp", config.mlp_size),
            ("vocabulary", 320),
        ):
            covered = [index for shard in shards for index in range(size)[getattr(shard, name)]]
            assert covered == list(range(size))
