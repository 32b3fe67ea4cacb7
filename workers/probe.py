"""What steps cost on this machine before anyone waits for them: timed steps over a grid of rows and context.

A probed step is a chain of draft nodes below a context that is computed once, so that it has exactly the rows and keys
asked for, and nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from contracts.types import ROOT, SamplingParams, SequenceId, StepReport
from engine.engine import Engine
from engine.work import Draft

__all__ = ["probe_steps"]

_PROBE = SequenceId("probe")
_TOKEN = 1


def probe_steps(
    engine: Engine, plan: Sequence[tuple[int, int]], *, num_times: int = 3
) -> Generator[StepReport, None, None]:
    """Reports of `num_times` steps for each (rows, keys of each row) of the plan that fits this engine.

    Shapes take turns, so that a machine that changes its speed meanwhile changes it for all of them: what counts later
    is how they compare. The first run of every shape is left out: it meets cold caches and, on CUDA, compilers. So is
    any that is not typical, such as the second on CUDA, in which the shape is captured. Whoever stops reading early
    closes the generator, which closes its sequence.
    """
    for keys in dict.fromkeys(keys for _, keys in plan):
        rows_of_keys = [rows for rows, of_keys in plan if of_keys == keys and _fits(engine, rows, keys)]
        if not rows_of_keys:
            continue
        engine.open(_PROBE, [_TOKEN] * keys, SamplingParams())
        try:
            _compute_context(engine)
            chains = [tuple((_TOKEN, index - 1 if index else ROOT) for index in range(rows)) for rows in rows_of_keys]
            for turn in range(num_times):
                for nodes in chains:
                    if turn == 0:
                        _run(engine, nodes)
                    while not (report := _run(engine, nodes)).is_typical:
                        pass
                    yield report
        finally:
            engine.close(_PROBE)


def _run(engine: Engine, nodes: tuple[tuple[int, int], ...]) -> StepReport:
    report = engine.step([Draft(sequence=_PROBE, nodes=nodes)]).report
    engine.drop_nodes(_PROBE)
    return report


def _compute_context(engine: Engine) -> None:
    while num_pending := engine.num_pending(_PROBE):
        engine.step([Draft(sequence=_PROBE, num_pending=min(num_pending, engine.limits.max_batch_rows))])


def _fits(engine: Engine, rows: int, keys: int) -> bool:
    return rows <= engine.limits.max_batch_rows and keys + rows <= engine.limits.max_context
