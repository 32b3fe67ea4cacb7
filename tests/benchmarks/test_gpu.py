"""`python -m benchmarks.gpu` as far as it runs without a GPU: every check in the interpreter, the engine on the CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.gpu import engine, kernels
from benchmarks.gpu.__main__ import NOT_MEASURED, main
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.kernels.case import TINY
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


@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_every_case_is_right_in_the_interpreter(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "KERNELS", (kernel,))
    torch.manual_seed(0)
    with interpreter(), torch.inference_mode():
        results = [kernels.check(kernel, case) for kernel, case in kernels.cases(TINY, "cpu")]
    assert results
    assert kernels.failures(results) == []
    assert all(x.same_alone is True for x in results) or kernel in ("rotary", "paged", "pruning")


def test_a_wrong_kernel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "KERNELS", ("swiglu",))
    with interpreter():
        _, case = next(kernels.cases(TINY, "cpu"))
        wrong = [
            dataclasses.replace(case, found=lambda: case.found() * 1.01),
            dataclasses.replace(case, found=lambda: case.found() * float("nan")),
            dataclasses.replace(case, alone=lambda: case.found()[-1:] * 1.01),
        ]
        found = kernels.failures([kernels.check("swiglu", some) for some in wrong])
    assert len(found) == 3
    assert found[2].endswith("bits alone differ")


def test_the_engine_and_transformers_are_measured_in_one_table() -> None:
    """On the CPU, in a tiny shape: that the path is there, not what it costs."""
    ours = engine.random_engine(SHAPE, device="cpu", num_sequences=2, context=20)
    results = [engine.measure(ours, num_sequences=count, context=20, num_rounds=1) for count in (1, 2)]
    theirs = {2: engine.measure_transformers(SHAPE, device="cpu", num_sequences=2, context=20, num_rounds=1)}
    lines = engine.table(results, theirs, bytes_per_s=1e9).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "2"]
    assert "not measured" in lines[2]
    assert "not measured" not in lines[3]
    assert ours.num_free_blocks == ours.pool.num_blocks


def test_floors_are_the_slower_of_bytes_and_operations() -> None:
    ceilings = Ceilings(bytes_per_s=10.0, flops_per_s=100.0)
    assert (ceilings.floor_s(20, 100), ceilings.floor_s(10, 400)) == (2.0, 4.0)
    checked = kernels.Checked(kernel="norm", name="x", error=1e-4, most_error=1e-3, same_alone=True)
    row = kernels.table([kernels.Timed(checked=checked, elapsed_s=4e-6, floor_s=3e-6)]).splitlines()[-1]
    assert row == "| norm | x | 1.0e-04 | 1.0e-03 | same bits | 4.0 | 3.0 | 75% |"
