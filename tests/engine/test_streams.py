"""Which stream an engine gets, on a GPU that is made up; whether CUDA has them can be seen on a GPU alone."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from contracts.config import EngineConfig, MachineFacts, ModelFacts, ResolvedEngineConfig, resolve_engine
from contracts.errors import ConfigError
from engine.executor import Executor
from engine.streams import GpuFacts, choose_stream, open_stream

FACTS = GpuFacts(num_multiprocessors=132, has_green_contexts=True)


def config_of(**said: Any) -> ResolvedEngineConfig:
    machine = MachineFacts(
        num_cpus=2, memory_bytes=2**36, has_cuda=True, cuda_memory_bytes=2**36, cuda_free_bytes=2**36
    )
    return resolve_engine(EngineConfig(model="m", **said), machine, ModelFacts(max_context=64, weight_bytes=2**30))


def test_the_urgent_engine_goes_first_on_all_multiprocessors() -> None:
    plain, urgent = (choose_stream(config_of(**said), FACTS) for said in ({}, {"gpu_priority": "high"}))
    assert urgent.priority < plain.priority
    assert {(x.num_multiprocessors, x.remark) for x in (plain, urgent)} == {(0, None)}
    assert choose_stream(config_of(gpu_multiprocessors=132), FACTS) == plain


def test_some_multiprocessors_where_they_can_be_parted_and_all_with_a_remark_where_not() -> None:
    config = config_of(gpu_multiprocessors=24, gpu_priority="high")
    urgent = choose_stream(config_of(gpu_priority="high"), FACTS).priority
    assert (choose_stream(config, FACTS).num_multiprocessors, choose_stream(config, FACTS).priority) == (24, urgent)
    without = choose_stream(config, GpuFacts(num_multiprocessors=132, has_green_contexts=False))
    assert without.num_multiprocessors == 0
    assert without.remark == "all 132 multiprocessors are used and not 24: torch has no green contexts here"
    assert without.priority == urgent


def test_more_multiprocessors_than_there_are_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="gpu_multiprocessors is 133 and this GPU has 132; it must be all or an integer"
    ):
        choose_stream(config_of(gpu_multiprocessors=133), FACTS)


def test_a_processor_has_no_streams() -> None:
    assert open_stream(config_of(), "cpu") is None


class Stream:
    """Of the made-up GPU."""

    def __init__(self, device: str, priority: int = 0) -> None:
        self.priority = priority
        self.follows: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.follows.append(other)


class Context:
    """A green context, which torch destroys with its last reference; it has 8 multiprocessors or more."""

    @staticmethod
    def create(*, num_sms: int, device_id: int) -> Context:
        if num_sms < 8:
            raise RuntimeError("not so few")
        return Context()

    def Stream(self) -> Stream:
        return Stream("cuda:0")


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> object:
    """The stream of whoever opens another."""
    found = object()
    facts = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: facts)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: found)
    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.green_contexts.SUPPORTED", True)
    monkeypatch.setattr("torch.cuda.green_contexts.GreenContext", Context)
    return found


def test_an_executor_holds_the_context_of_its_stream(current: object) -> None:
    opened = open_stream(config_of(gpu_multiprocessors=24), "cuda:0")
    assert opened is not None
    assert isinstance(opened.stream, Stream)
    assert opened.stream.follows == [current]
    context = weakref.ref(opened.context)
    nothing: Any = None
    executor = Executor(nothing, nothing, nothing, num_threads=1, num_real_tokens=1, compiled=None, stream=opened)
    del opened
    gc.collect()
    assert isinstance(context(), Context)
    del executor
    gc.collect()
    assert context() is None


def test_priority_is_kept_without_a_context_and_said_to_be_lost_with_one(
    current: object, caplog: pytest.LogCaptureFixture
) -> None:
    without = open_stream(config_of(gpu_multiprocessors=4, gpu_priority="high"), "cuda:0")
    assert without is not None
    assert isinstance(without.stream, Stream)
    assert (without.stream.priority, without.stream.follows) == (-1, [current])
    assert caplog.messages == ["all multiprocessors are used and not 4, with high priority: not so few"]
    caplog.clear()
    open_stream(config_of(gpu_multiprocessors=8, gpu_priority="high"), "cuda:0")
    assert caplog.messages == [
        "engine.gpu_priority is high and not used: streams on some multiprocessors have no priority"
    ]
    caplog.clear()
    open_stream(config_of(gpu_multiprocessors=8), "cuda:0")
    assert not caplog.messages
