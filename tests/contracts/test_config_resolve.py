"""Resolving: no `auto` is left, what was said by hand stays, and what cannot work is refused by key."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import EngineConfig, FleetConfig, MachineFacts, ModelFacts, resolve, resolve_engine
from contracts.errors import ConfigError

GIB = 2**30
CPU = MachineFacts(num_cpus=8, memory_bytes=32 * GIB, has_cuda=False, cuda_memory_bytes=0, cuda_free_bytes=0)
GPU = MachineFacts(
    num_cpus=16, memory_bytes=128 * GIB, has_cuda=True, cuda_memory_bytes=80 * GIB, cuda_free_bytes=80 * GIB
)
MODEL = ModelFacts(max_context=4096, weight_bytes=8 * GIB)

machines = st.builds(
    MachineFacts,
    num_cpus=st.integers(1, 512),
    memory_bytes=st.integers(9 * GIB, 4096 * GIB),
    has_cuda=st.booleans(),
    cuda_memory_bytes=st.integers(10 * GIB, 192 * GIB),
    cuda_free_bytes=st.integers(10 * GIB, 192 * GIB),
)


@given(machines, st.integers(1, 8))
def test_no_auto_is_left_and_ranks_fit_their_machine(machine: MachineFacts, tensor_parallel: int) -> None:
    config = FleetConfig(engine=EngineConfig(model="m", tensor_parallel=tensor_parallel))
    engine = resolve(config, machine, MODEL).engine
    assert "auto" not in dataclasses.astuple(engine)
    assert engine.device == ("cuda" if machine.has_cuda else "cpu")
    assert 1 <= engine.num_threads <= max(1, machine.num_cpus // tensor_parallel)
    if engine.device == "cuda":
        free_bytes = min(machine.cuda_memory_bytes, machine.cuda_free_bytes)
        assert engine.kv_cache_bytes + MODEL.weight_bytes // tensor_parallel <= free_bytes
    else:
        assert engine.kv_cache_bytes * tensor_parallel + MODEL.weight_bytes <= machine.memory_bytes
    assert resolve(config, machine, MODEL).engine == engine


def test_what_was_said_by_hand_stays() -> None:
    said: dict[str, Any] = {
        "model": "m",
        "dtype": "float32",
        "weights": "int8",
        "device": "cpu",
        "gpu_priority": "high",
        "gpu_multiprocessors": 24,
        "deterministic": False,
        "num_threads": 3,
        "tensor_parallel": 2,
        "kv_cache_bytes": 5 * GIB,
        "max_batch_rows": 64,
        "max_context": 1000,
        "prefix_cache": False,
        "compiled_step": "on",
        "step_deadline_s": 7.0,
    }
    assert set(said) == set(EngineConfig.model_fields), "say every key here"
    engine = resolve_engine(EngineConfig(**said), GPU, MODEL)
    assert dataclasses.asdict(engine) == {**said, "compiled_step": True}


def test_the_compiled_step_is_for_cpu_unless_said() -> None:
    def step(machine: MachineFacts, **said: Any) -> bool:
        return resolve_engine(EngineConfig(model="m", **said), machine, MODEL).compiled_step

    assert step(CPU)
    assert not step(GPU)
    assert not step(CPU, compiled_step="off")
    assert step(GPU, compiled_step="on")


def test_a_workspace_is_taken_off_each_gpu_and_off_no_cpu() -> None:
    config, roomier = EngineConfig(model="m", tensor_parallel=2), dataclasses.replace(MODEL, workspace_bytes=GIB)
    for machine, taken in ((GPU, GIB), (CPU, 0)):
        with_it, without = (resolve_engine(config, machine, model).kv_cache_bytes for model in (roomier, MODEL))
        assert without - with_it == taken
    tight = dataclasses.replace(GPU, cuda_memory_bytes=10 * GIB, cuda_free_bytes=10 * GIB)
    assert resolve_engine(EngineConfig(model="m"), tight, MODEL).kv_cache_bytes > 0
    with pytest.raises(ConfigError, match="over 1 ranks, 1073741824 of workspace beside each part, leave no room"):
        resolve_engine(EngineConfig(model="m"), tight, roomier)


def test_engines_that_share_a_gpu_plan_with_their_own_parts() -> None:
    """The first by its share, for nobody else may be there yet; a later one by what is free, too."""
    config = EngineConfig(model="m")
    target = resolve_engine(config, GPU, MODEL, gpu_share=0.75).kv_cache_bytes
    assert target == int(60 * GIB * 0.9) - MODEL.weight_bytes
    left = dataclasses.replace(GPU, cuda_free_bytes=80 * GIB - target - MODEL.weight_bytes)
    small = dataclasses.replace(MODEL, weight_bytes=GIB)
    assert resolve_engine(config, left, small, gpu_share=0.25).kv_cache_bytes == int(20 * GIB * 0.9) - GIB
    crowded = dataclasses.replace(GPU, cuda_free_bytes=10 * GIB)
    assert resolve_engine(config, crowded, small).kv_cache_bytes == 8 * GIB
    with pytest.raises(
        ConfigError, match=r"in 4294967296 bytes of cuda memory \(of a GPU's 85899345920, 10737418240 are "
    ):
        resolve_engine(config, crowded, MODEL, gpu_share=0.05)


def test_what_cannot_work_is_refused_by_key() -> None:
    def refusal(machine: MachineFacts, **said: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            resolve_engine(EngineConfig(model="m", **said), machine, MODEL)
        return caught.value.message

    assert refusal(CPU, device="cuda").startswith("engine.device is 'cuda' and this machine has none; it must be")
    assert "engine.max_context is 5000 and the model was made for 4096" in refusal(CPU, max_context=5000)
    small = dataclasses.replace(CPU, memory_bytes=8 * GIB)
    assert "engine.kv_cache_bytes is 'auto' and 8589934592 bytes of weights over 1 ranks" in refusal(small)
    small_gpu = dataclasses.replace(GPU, cuda_memory_bytes=8 * GIB, cuda_free_bytes=8 * GIB)
    assert "8589934592 bytes of cuda memory" in refusal(small_gpu)
    assert resolve_engine(EngineConfig(model="m", tensor_parallel=4), small_gpu, MODEL).kv_cache_bytes > 0
