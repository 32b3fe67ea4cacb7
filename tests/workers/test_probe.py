"""Probed steps have exactly the rows and keys that were asked for, and leave nothing behind."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.types import SequenceId
from engine.work import StepResult, Work
from speculation.cost import CostTable, probe_plan
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import GREEDY, Model
from workers.probe import probe_steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("probe") / "model"
    return Model.load(write_checkpoint(folder, "llama", num_hidden_layers=1, max_position_embeddings=128), "float32")


def test_each_step_is_reported_with_its_rows_and_keys(model: Model) -> None:
    plan = [(1, 1), (4, 1), (1, 40), (4, 40), (7, 16)]
    reports = list(probe_steps(model.engine(), plan, num_times=2))
    seen = [(report.num_rows, report.num_context) for report in reports]
    # Row i of a chain sees the context, the rows before it and itself.
    expected = [(rows, sum(keys + row + 1 for row in range(rows))) for rows, keys in plan for _ in range(2)]
    assert sorted(seen) == sorted(expected)
    assert all(report.elapsed_s > 0.0 and report.num_sequences == 1 for report in reports)


def test_shapes_take_turns(model: Model) -> None:
    """Else a machine that is slow for a second would make one shape look dear beside another."""
    plan = [(1, 1), (8, 1), (2, 1), (1, 40), (8, 40)]
    reports = list(probe_steps(model.engine(), plan, num_times=3))
    assert [report.num_rows for report in reports] == [1, 8, 2] * 3 + [1, 8] * 3


def test_a_context_longer_than_a_step_is_computed_in_pieces(model: Model) -> None:
    engine = model.engine(max_batch_rows=16)
    assert [report.num_rows for report in probe_steps(engine, [(16, 100), (1, 100)], num_times=1)] == [16, 1]


def test_what_does_not_fit_is_left_out(model: Model) -> None:
    engine = model.engine(max_batch_rows=8)
    plan = [(9, 1), (8, 1), (8, 121), (8, 120), (1, 1000)]
    reports = list(probe_steps(engine, plan, num_times=1))
    assert sorted((report.num_rows, report.num_context > 100) for report in reports) == [(8, False), (8, True)]


@pytest.mark.parametrize("num_read", [2, 1000])
def test_nothing_stays_even_when_the_reader_stops_early(model: Model, num_read: int) -> None:
    engine = model.engine()
    other = SequenceId("other")
    engine.open(other, [9, 8, 7], GREEDY)
    free = engine.num_free_blocks
    steps = probe_steps(engine, probe_plan(16, 40))
    read = [report for report, _ in zip(steps, range(num_read), strict=False)]
    steps.close()
    assert len(read) > 1
    assert engine.num_free_blocks == free
    engine.pool.check()
    assert engine.tokens_of(other) == (9, 8, 7)
    assert list(probe_steps(engine, [(1, 1)], num_times=1))  # the name is free again


def test_the_probes_make_a_table_that_prices_rounds(model: Model) -> None:
    cost = CostTable()
    for report in probe_steps(model.engine(), probe_plan(16, 40)):
        cost.observe(report)
    assert 0.0 < cost.cost_s(1, 1) <= cost.cost_s(16, 640)


def test_steps_that_are_not_typical_are_no_probes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: of each shape the first step runs kernel by kernel, and the second is captured."""
    engine, num_met = model.engine(), Counter[int]()
    step = engine.step

    def captured_at_the_second(work: Sequence[Work], **named: Any) -> StepResult:
        result = step(work, **named)
        num_rows = result.report.num_rows
        num_met[num_rows] += 1
        report = dataclasses.replace(result.report, is_typical=num_met[num_rows] > 2)
        return dataclasses.replace(result, report=report)

    monkeypatch.setattr(engine, "step", captured_at_the_second)
    reports = list(probe_steps(engine, [(2, 16), (4, 16)], num_times=3))
    assert [report.num_rows for report in reports] == [2, 4] * 3
    assert all(report.is_typical for report in reports)
    assert num_met == {16: 1, 2: 5, 4: 5}
