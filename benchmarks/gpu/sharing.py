"""Target and drafter on one GPU from one process: what a target's steps cost while a drafter steps without a pause, and
what the drafter's cost then. Every so often the drafter reads a new text, which is no step of its own figure.

Both have the streams that the service would give them (`with_target`). Each arrangement has engines of its own, for a
captured graph keeps the stream that it was captured from; a ratio is taken between steps of the same engines.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.engine import NUM_ROWS, Measured, give_back, measure, prompt, random_engine, sequences_of
from benchmarks.gpu.table import Row, failed
from contracts.config import EngineConfig, ModelFacts, resolve_engine
from contracts.errors import Unavailable
from contracts.types import SamplingParams, SequenceId
from engine.engine import Engine
from engine.machine import machine_facts
from engine.streams import EngineStream, open_stream
from engine.work import Verify

__all__ = ["ARRANGEMENTS", "NUM_STEPS", "SMALL", "Arrangement", "rows", "steps_s"]

SMALL: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 2048,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""A drafter of 136 million parameters, most of them embedding."""
_COUNTS = (1, 8)
NUM_STEPS = 40
"""Of the drafter, for each of its texts."""
_NAME = SequenceId("draft")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """How the two share."""

    name: str
    is_target_urgent: bool = False
    parts_for_drafter: int | None = None
    """Of the GPU's multiprocessors the drafter has one in so many."""


ARRANGEMENTS = (
    Arrangement(name="streams alike"),
    Arrangement(name="target urgent", is_target_urgent=True),
    Arrangement(name="drafter on a quarter", parts_for_drafter=4),
)


def rows(
    target: Mapping[str, Any],
    drafter: Mapping[str, Any] = SMALL,
    *,
    context: int,
    device: str = "cuda",
    counts: Sequence[int] = _COUNTS,
    num_rounds: int = 9,
) -> Iterator[Row]:
    """For each arrangement and number of sequences one."""
    for arrangement in ARRANGEMENTS:
        try:
            yield from _rows_of(arrangement, target, drafter, context, device, counts, num_rounds)
        except Exception as error:  # noqa: BLE001  # one arrangement says nothing of the others
            yield failed("sharing", arrangement.name, error)
        give_back(device)


def _rows_of(
    how: Arrangement,
    target: Mapping[str, Any],
    drafter: Mapping[str, Any],
    context: int,
    device: str,
    counts: Sequence[int],
    num_rounds: int,
) -> Iterator[Row]:
    streams = _streams(how, device)
    if how.parts_for_drafter is not None and device != "cpu" and (streams[1] is None or streams[1].context is None):
        raise Unavailable("there are no green contexts here, which part the multiprocessors")
    ours, small = (
        random_engine(shape, device=device, num_sequences=count, context=context, stream=stream)
        for shape, count, stream in zip((target, drafter), (max(counts), 1), streams, strict=True)
    )
    steps = steps_s(small, context)
    for count in counts:
        alone = measure(ours, num_sequences=count, context=context, num_rounds=num_rounds)
        drafting_alone_s = statistics.median(next(steps) for _ in range(NUM_STEPS))
        with _going_on(steps) as taken_s:
            beside = measure(ours, num_sequences=count, context=context, num_rounds=num_rounds)
        yield _row(how, alone, beside, statistics.median(taken_s) / drafting_alone_s)


def _row(how: Arrangement, alone: Measured, beside: Measured, drafting: float) -> Row:
    return Row(
        part="sharing",
        name=f"{sequences_of(alone.num_sequences)}, {NUM_ROWS} rows each, {how.name}",
        elapsed_s=beside.verify_s,
        beside=f"{beside.verify_s / alone.verify_s:.2f} times alone; the drafter's step {drafting:.2f} times",
    )


def _streams(how: Arrangement, device: str) -> tuple[EngineStream | None, EngineStream | None]:
    """The target's and the drafter's, as the service opens them."""
    if device == "cpu":
        return None, None
    some = torch.cuda.get_device_properties(device).multi_processor_count // (how.parts_for_drafter or 1)
    settings = (
        EngineConfig(model="random", device="cuda", gpu_priority="high" if how.is_target_urgent else "normal"),
        EngineConfig(model="random", device="cuda", gpu_multiprocessors=some if how.parts_for_drafter else "all"),
    )
    facts = ModelFacts(max_context=1, weight_bytes=0, workspace_bytes=0)
    ours, small = (
        open_stream(resolve_engine(each, machine_facts("cuda", 0), facts), f"{device}:0") for each in settings
    )
    return ours, small


def steps_s(engine: Engine, context: int) -> Iterator[float]:
    """Seconds of one step after another, of one row each, for ever."""
    text = prompt(0, engine.identity.vocab_size, context)
    while True:
        engine.open(_NAME, text, SamplingParams())
        engine.step([Verify(sequence=_NAME)])
        for _ in range(NUM_STEPS):
            yield engine.step([Verify(sequence=_NAME)]).report.elapsed_s
        engine.close(_NAME)


@contextmanager
def _going_on(steps: Iterator[float]) -> Iterator[list[float]]:
    """Steps in a thread of their own until the block is left, and their seconds; one that fails ends the block."""
    taken_s, stop = list[float](), threading.Event()

    def go_on() -> None:
        while not stop.is_set() or not taken_s:
            taken_s.append(next(steps))

    with ThreadPoolExecutor(1) as threads:
        going = threads.submit(go_on)
        try:
            yield taken_s
        finally:
            stop.set()
            going.result()
