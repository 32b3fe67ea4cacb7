"""`python -m benchmarks.gpu` as far as it runs without a GPU: every check in the interpreter, the engine on the CPU."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.gpu import engine, kernels, sharing
from benchmarks.gpu.__main__ import NOT_MEASURED, main, print_table
from benchmarks.gpu.ceilings import Ceilings, num_copies
from benchmarks.gpu.table import HEADER, Row
from benchmarks.kernels import swiglu
from benchmarks.kernels.case import TINY, GpuCase, Sizes
from engine.engine import Engine
from tests.kernels.gpu.interpreter import interpreter

SHAPE = {
    **engine.LLAMA_8B,
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, and the command would measure it")
def test_without_a_gpu_it_says_that_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == NOT_MEASURED
    assert capsys.readouterr().out.startswith(f"not measured: torch {torch.__version__} sees no GPU on this machine")


def checked(kernel: str, case: GpuCase) -> kernels.Timed:
    """Checked as on a GPU, and not timed."""
    return kernels.Timed(checked=kernels.check(kernel, case), elapsed_s=4e-6, floor_s=3e-6)


@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_every_case_is_right_in_the_interpreter(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "KERNELS", (kernel,))
    torch.manual_seed(0)
    with interpreter():
        rows = list(kernels.rows(TINY, "cpu", checked))
    assert rows
    assert [row.complaint for row in rows if row.complaint] == []
    assert all(row.alone == "same bits" for row in rows) or kernel in ("rotary", "paged", "pruning")


@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_a_run_again_reads_other_memory(kernel: str) -> None:
    """All that a run moves is copied: half of it at least is inputs."""
    with interpreter():
        case = next(importlib.import_module(f"benchmarks.kernels.{kernel}").gpu_cases(TINY, "cpu"))
        case.run()
        case.again()()
    if case.other is not None:
        return
    memo: dict[int, Any] = {}
    copy.deepcopy(case.run, memo)
    copied = [x for x in memo.values() if isinstance(x, torch.Tensor)]
    assert 2 * sum(x.numel() * x.element_size() for x in copied) >= case.num_bytes


def test_between_two_runs_on_a_copy_lies_more_than_a_cache_holds() -> None:
    megabyte = 2**20
    for num_bytes in (1000, 3 * megabyte, 50 * megabyte, 900 * megabyte):
        copies = num_copies(num_bytes, 50 * megabyte)
        assert (copies - 1) * num_bytes >= 100 * megabyte
        assert (copies - 2) * num_bytes < 100 * megabyte


def test_a_wrong_kernel_is_reported() -> None:
    with interpreter():
        case = next(swiglu.gpu_cases(TINY, "cpu"))
        wrong = [
            dataclasses.replace(case, found=lambda: case.found() * 1.01),
            dataclasses.replace(case, found=lambda: case.found() * float("nan")),
            dataclasses.replace(case, alone=lambda: case.found()[-1:] * 1.01),
        ]
        found = [kernels.row_of(checked("swiglu", some)).complaint for some in wrong]
    assert None not in found
    assert str(found[2]).endswith("bits alone differ")


def test_what_fails_is_one_row_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One input, all inputs of a kernel after its first, and whatever comes after them."""

    def measure(kernel: str, case: GpuCase) -> kernels.Timed:
        if case.name.startswith("1 rows"):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate | bytes")
        return checked(kernel, case)

    gpu_cases = swiglu.gpu_cases

    def broken(sizes: Sizes, device: str) -> Iterator[GpuCase]:
        yield from gpu_cases(sizes, device)
        raise RuntimeError("no more memory for inputs")

    monkeypatch.setattr(kernels, "KERNELS", ("swiglu", "norm"))
    monkeypatch.setattr(swiglu, "gpu_cases", broken)
    with interpreter():
        complaints = print_table(kernels.rows(TINY, "cpu", measure))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == HEADER.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["swiglu", "swiglu", "swiglu", "norm", "norm"]
    assert {line.count("|") for line in lines} == {10}
    assert "FAILED: OutOfMemoryError: CUDA out of memory. Tried to allocate / bytes" in lines[2]
    assert "| 4.0 | 3.0 | 75% |" in lines[3]
    assert "inputs after 3 rows of 48" in lines[4]
    assert "| 75% |" in lines[6]
    assert [complaint.split(":")[1] for complaint in complaints] == [
        " OutOfMemoryError",
        " RuntimeError",
        " OutOfMemoryError",
    ]


def engine_rows() -> list[Row]:
    return list(engine.rows(SHAPE, context=20, bytes_per_s=1e9, device="cpu", counts=(1, 2), num_rounds=1))


def test_the_engine_and_transformers_are_rows_of_the_same_table() -> None:
    """On the CPU, in a tiny shape: that the path is there, not what it costs."""
    rows = engine_rows()
    assert [(row.part, row.name) for row in rows] == [
        ("engine", "1 sequence, plain"),
        ("engine", "1 sequence, 8 rows each"),
        ("engine", "2 sequences, plain"),
        ("engine", "2 sequences, 8 rows each"),
        ("transformers", "1 sequence, plain"),
        ("transformers", "2 sequences, plain"),
    ]
    assert [row.complaint for row in rows] == [None] * 6
    assert [row.beside.split(" ", 1)[1] for row in rows if row.beside] == ["times plain"] * 2 + ["times ours"] * 2


def test_a_target_beside_a_drafter_is_a_row_for_each_arrangement(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two threads on the CPU; an arrangement whose drafter fails is a row that says so."""

    def measured() -> list[Row]:
        return list(sharing.rows(SHAPE, SHAPE, context=20, device="cpu", counts=(1, 2), num_rounds=1))

    rows = measured()
    assert [row.name for row in rows] == [
        f"{count}, 8 rows each, {how.name}" for how in sharing.ARRANGEMENTS for count in ("1 sequence", "2 sequences")
    ]
    assert [row.complaint for row in rows] == [None] * 6
    assert all("times alone; the drafter's step" in row.beside for row in rows)

    def broken(drafter: Engine, context: int) -> Iterator[float]:
        yield from [1.0] * sharing.NUM_STEPS
        raise RuntimeError("a launch failed")

    monkeypatch.setattr(sharing, "steps_s", broken)
    assert [row.complaint for row in measured()] == [
        f"sharing, {how.name}: RuntimeError: a launch failed" for how in sharing.ARRANGEMENTS
    ]


def test_an_engine_that_fails_once_goes_on_and_transformers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = engine.random_engine(SHAPE, device="cpu", num_sequences=2, context=20)
    step, num_steps = ours.step, 0

    def fails_at_first(*arguments: Any) -> Any:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 2:
            raise RuntimeError("a launch failed")
        return step(*arguments)

    monkeypatch.setattr(ours, "step", fails_at_first)
    monkeypatch.setattr(engine, "random_engine", lambda *_, **__: ours)
    monkeypatch.setitem(sys.modules, "transformers", None)
    rows = engine_rows()
    assert [row.beside.split(":")[0] for row in rows][::3] == ["FAILED", "not measured"]
    assert rows[0].complaint == "engine, 1 sequence: RuntimeError: a launch failed"
    assert [row.complaint for row in rows[1:]] == [None] * 3
    assert ours.num_free_blocks == ours.pool.num_blocks


def test_transformers_need_not_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is imported before it is measured, and then a row says so."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("engine_anew", engine.__file__)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "engine_anew", anew)
    spec.loader.exec_module(anew)
    rows = list(anew.rows(SHAPE, context=20, bytes_per_s=1e9, device="cpu", counts=(1,), num_rounds=1))
    assert [row.part for row in rows] == ["engine", "engine", "transformers"]
    assert rows[2].beside.startswith("not measured: ModuleNotFoundError")
    assert rows[2].complaint is None


def test_floors_are_the_slower_of_bytes_and_operations() -> None:
    ceilings = Ceilings(bytes_per_s=10.0, flops_per_s=100.0)
    assert (ceilings.floor_s(20, 100), ceilings.floor_s(10, 400)) == (2.0, 4.0)
    result = kernels.Checked(kernel="norm", name="x", error=1e-4, most_error=1e-3, same_alone=True)
    row = kernels.row_of(kernels.Timed(checked=result, elapsed_s=4e-6, floor_s=3e-6))
    assert row.markdown == "| norm | x | 1.0e-04 | 1.0e-03 | same bits | 4.0 | 3.0 | 75% |  |"
