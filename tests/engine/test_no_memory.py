"""A step that finds no memory concerns whoever asked for it; what it should have moved is moved before the next one."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from contracts.errors import Overloaded
from contracts.types import SamplingParams, SequenceId
from engine.engine import Engine
from engine.work import Verify
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model, same_bits, step_with_logits

A, B = SequenceId("a"), SequenceId("b")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(write_checkpoint(tmp_path_factory.mktemp("model"), "llama", num_hidden_layers=1), "float32")


def once(function: Any) -> Any:
    """The function, which finds no memory the first time."""
    calls: list[object] = []

    def called(*args: Any, **named: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has less.")
        return function(*args, **named)

    return called


def begun(model: Model) -> Engine:
    """Two sequences, of which the second still waits for a copy of what it shares with the first."""
    engine = model.engine(is_compiled=False)
    engine.open(A, [9, 8, 7], SamplingParams())
    engine.step([Verify(sequence=A)])
    engine.fork(A, B, SamplingParams())
    return engine


@pytest.mark.parametrize(
    "place", ["kernels.paged.KVCache.copy", "engine.executor.forward_layers", "engine.executor.sample"]
)
def test_what_found_no_memory_is_refused_and_the_texts_stay(
    model: Model, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, engine = begun(model), begun(model)
    expected = [step_with_logits(undisturbed, [Verify(sequence=each)]) for each in (A, B)]
    with monkeypatch.context() as patch:
        patch.setattr(place, once(resolve_name(place)))
        with pytest.raises(
            Overloaded,
            match=r"a step of 1 rows found no room on cpu: CUDA out of memory\. Tried to allocate 2\.00 GiB\. The KV "
            r"cache has \d+ bytes of it; lower engine\.kv_cache_bytes, engine\.max_batch_rows",
        ):
            engine.step([Verify(sequence=A)])
    found = [step_with_logits(engine, [Verify(sequence=each)]) for each in (A, B)]
    for (result, (logits,)), (other, (theirs,)) in zip(found, expected, strict=True):
        assert result.outcomes == other.outcomes
        assert same_bits(logits, theirs)
    engine.pool.check()
