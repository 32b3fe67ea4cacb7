"""Tensor-parallel ranks as child processes of this one, for a single machine without a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from contracts.config import EngineConfig
from contracts.errors import RankLost, SpecfleetError
from engine.load import LoadedEngine, load_engine, load_follower
from engine.machine import device_of
from engine.ranks import DistributedRanks

__all__ = ["local_engine"]

_GOODBYE_S = 10.0


@contextlib.contextmanager
def local_engine(config: EngineConfig, *, gpu_share: float = 1.0) -> Iterator[LoadedEngine]:
    """An engine with all its ranks on this machine, where each has so much of a GPU; they end with the block, however
    it is left."""
    if config.tensor_parallel == 1:
        yield load_engine(config, gpu_share=gpu_share)
        return
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{Path(folder) / 'rendezvous'}"
        context = multiprocessing.get_context("spawn")
        followers = [
            context.Process(target=_follow, args=(config.model_dump(), address, rank, gpu_share), daemon=True)
            for rank in range(1, config.tensor_parallel)
        ]
        for follower in followers:
            follower.start()
        ranks = None
        try:
            ranks = _joined(config, address, rank=0)
            loaded = load_engine(config, ranks=ranks, gpu_share=gpu_share)
            yield loaded
            with contextlib.suppress(SpecfleetError):  # a group that is lost already needs no goodbye
                loaded.engine.shut_down()
        finally:
            if ranks is not None:
                ranks.close()  # whatever happened: this is what tells followers that wait
            _end(followers)


def _follow(config: dict[str, object], address: str, rank: int, gpu_share: float) -> None:
    parsed = EngineConfig.model_validate(config)
    # Rank 0 says what went wrong; what a follower would add is only that rank 0 has left.
    with contextlib.suppress(RankLost):
        load_follower(parsed, _joined(parsed, address, rank), gpu_share=gpu_share).run()


def _joined(config: EngineConfig, address: str, rank: int) -> DistributedRanks:
    return DistributedRanks(
        address=address,
        rank=rank,
        size=config.tensor_parallel,
        deadline_s=config.step_deadline_s,
        device=device_of(config),
    )


def _end(followers: Sequence[BaseProcess]) -> None:
    for follower in followers:
        follower.join(_GOODBYE_S)
        if follower.is_alive():
            follower.kill()
            follower.join()
