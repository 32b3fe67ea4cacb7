"""How much a verifier and drafters that share cores slow each other down, measured: real engines that step at once.

Each is a process of its own that does steps of one row for a while, alone and then in company. What comes out is how
many times longer a step takes, by the threads of the one who is slowed down and of all the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from statistics import fmean
from typing import Literal

from benchmarks.simulator.cores import MeasuredSlowdown
from contracts.config import EngineConfig
from engine.load import load_engine
from workers.probe import probe_steps

__all__ = ["Worker", "measure_slowdown"]

_KEYS = 128
_START_S = 300.0
_STEPS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that steps. `folder`: its model."""

    folder: str
    num_threads: int
    dtype: Literal["bfloat16", "float32"]


def measure_slowdown(verifier: Worker, drafters: Sequence[Worker], *, seconds: float) -> MeasuredSlowdown:
    """Alone, the verifier with one drafter, with two, and so on, and drafters without it. Alone comes several times,
    between the others, so that what the machine does meanwhile is not taken for company."""
    slow: dict[tuple[int, int], list[float]] = {}
    for count in range(1, len(drafters) + 1):
        verifier_s, drafter_s = _steps_s([verifier], seconds)[0], _steps_s(drafters[:1], seconds)[0]
        together = _steps_s([verifier, *drafters[:count]], seconds)
        others = sum(drafter.num_threads for drafter in drafters[:count])
        slow.setdefault((verifier.num_threads, others), []).append(together[0] / verifier_s)
        beside = verifier.num_threads + others - drafters[0].num_threads
        slow.setdefault((drafters[0].num_threads, beside), []).append(together[1] / drafter_s)
        if count > 1 and others - drafters[0].num_threads != beside:
            among = _steps_s(drafters[:count], seconds)
            slow.setdefault((drafters[0].num_threads, others - drafters[0].num_threads), []).append(
                among[0] / drafter_s
            )
    return MeasuredSlowdown(of={threads: max(fmean(times), 1.0) for threads, times in slow.items()})


def _steps_s(workers: Sequence[Worker], seconds: float) -> list[float]:
    """Mean time of a step of each, all at work at once. What keeps one of them from it is raised here."""
    context = get_context("spawn")
    barrier = context.Barrier(len(workers))
    with ProcessPoolExecutor(len(workers), mp_context=context, initializer=_meet_at, initargs=(barrier,)) as pool:
        means = [pool.submit(_step_s, worker, seconds) for worker in workers]
        ended, _ = wait(means, return_when=FIRST_EXCEPTION)
        barrier.abort()  # nobody waits for one that has failed
        for mean in ended:
            mean.result()
        return [mean.result() for mean in means]


_barriers: list[Barrier] = []  # of a process of the pool, which can be given one only as it starts


def _meet_at(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _step_s(worker: Worker, seconds: float) -> float:
    config = EngineConfig(model=worker.folder, dtype=worker.dtype, num_threads=worker.num_threads)
    engine = load_engine(config).engine
    list(probe_steps(engine, [(1, _KEYS)], num_times=2))
    _barriers[0].wait(_START_S)
    began_s = time.perf_counter()
    times: list[float] = []
    while time.perf_counter() - began_s < seconds:
        times += [report.elapsed_s for report in probe_steps(engine, [(1, _KEYS)], num_times=_STEPS_AT_ONCE)]
    _barriers[0].wait(_START_S)  # nobody is alone for the rest
    return fmean(times)
