"""Hosting a drafter that runs a model. Importing this loads the model library."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable, Iterator

from contracts.config import DrafterConfig, EngineConfig
from contracts.errors import Internal
from contracts.types import DrafterId, StepReport
from engine.engine import Engine
from engine.load import spare_torch_threads
from engine.local_group import local_engine
from specfleet.tracing import Tracing
from workers.drafter_node.hello import ModelFace, Speed, hello_of
from workers.drafter_node.node import DrafterNode
from workers.drafters.model import ModelDrafter
from workers.drafters.registry import Setup, make_drafter
from workers.probe import probe_steps

__all__ = ["hosted_with_model", "speed_of_engine"]

_NUM_TIMES = 9
_KEYS = 64  # a short text: a small model hardly notices the context
_CHUNK = 64


@contextlib.contextmanager
def hosted_with_model(
    name: str, config: DrafterConfig, engine: EngineConfig, tracing: Tracing | None
) -> Iterator[DrafterNode]:
    """The node of a drafter over this engine; its ranks end with the block."""
    spare_torch_threads()
    with local_engine(engine, gpu_share=_gpu_share(config, engine)) as loaded:
        limits, steps = loaded.engine.limits, list[StepReport]()
        setup = Setup(drafter=DrafterId(name), vocab_size=limits.num_real_tokens, engine=loaded, on_step=steps.append)
        drafter = make_drafter(config.kind, setup)
        if not isinstance(drafter, ModelDrafter):
            raise Internal(f"drafter {name} of kind {drafter.kind} has an engine and no search")
        face = ModelFace(identity=loaded.engine.identity, max_context=limits.max_context, device=loaded.config.device)
        hello = hello_of(name, config, drafter, speed_of_engine(loaded.engine), face)
        yield DrafterNode(
            drafter,
            name=name,
            hello=hello,
            begin=drafter.begin,
            steps=steps,
            agreement=drafter.agreement,
            tracing=tracing,
        )


def _gpu_share(config: DrafterConfig, engine: EngineConfig) -> float:
    """What its ranks have of a GPU each; one that asked for none, and yet runs on one, was started there by hand."""
    return min(config.num_gpus / engine.tensor_parallel, 1.0) or 1.0


def speed_of_engine(engine: Engine) -> Speed:
    """Of steps of one row, and of a chunk of a prompt. Medians, for machines are shared."""
    limits = engine.limits
    chunk = min(_CHUNK, limits.max_batch_rows, limits.max_context // 2)
    keys = min(_KEYS, limits.max_context // 2)
    return Speed(
        step_s=_median_s(probe_steps(engine, [(1, keys)], num_times=_NUM_TIMES)),
        prefill_s_per_token=_median_s(probe_steps(engine, [(chunk, 1)], num_times=_NUM_TIMES)) / chunk,
    )


def _median_s(reports: Iterable[StepReport]) -> float:
    return statistics.median(report.elapsed_s for report in reports)
