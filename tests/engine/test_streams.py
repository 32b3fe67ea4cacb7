"""Which stream an engine gets on a GPU; whether CUDA has them can be seen on a GPU alone."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.config import EngineConfig, MachineFacts, ModelFacts, ResolvedEngineConfig, resolve_engine
from contracts.errors import ConfigError
from engine.streams import GpuFacts, choose_stream, open_stream

FACTS = GpuFacts(num_multiprocessors=132, has_green_contexts=True)


def config_of(**said: Any) -> ResolvedEngineConfig:
    machine = MachineFacts(num_cpus=2, memory_bytes=2**36, has_cuda=True, cuda_memory_bytes=2**36)
    return resolve_engine(EngineConfig(model="m", **said), machine, ModelFacts(max_context=64, weight_bytes=2**30))


def test_the_urgent_engine_goes_first_on_all_multiprocessors() -> None:
    plain, urgent = (choose_stream(config_of(**said), FACTS) for said in ({}, {"gpu_priority": "high"}))
    assert urgent.priority < plain.priority
    assert {(x.num_multiprocessors, x.remark) for x in (plain, urgent)} == {(0, None)}
    assert choose_stream(config_of(gpu_multiprocessors=132), FACTS) == plain


def test_some_multiprocessors_where_they_can_be_parted_and_all_with_a_remark_where_not() -> None:
    config = config_of(gpu_multiprocessors=24, gpu_priority="high")
    assert choose_stream(config, FACTS).num_multiprocessors == 24
    without = choose_stream(config, GpuFacts(num_multiprocessors=132, has_green_contexts=False))
    assert without.num_multiprocessors == 0
    assert without.remark == "all 132 multiprocessors are used and not 24: torch has no green contexts here"
    assert without.priority == choose_stream(config_of(gpu_priority="high"), FACTS).priority


def test_more_multiprocessors_than_there_are_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="gpu_multiprocessors is 133 and this GPU has 132; it must be all or an integer"
    ):
        choose_stream(config_of(gpu_multiprocessors=133), FACTS)


def test_a_processor_has_no_streams() -> None:
    assert open_stream(config_of(), "cpu") is None
