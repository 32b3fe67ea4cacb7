"""How a verifier introduces itself: its model, its sizes, what its steps cost, and how it spells."""

from __future__ import annotations

import itertools
from pathlib import Path

from contracts.clock import Clock
from engine.checkpoint import resolve_folder
from engine.engine import Engine
from engine.load import LoadedEngine
from specfleet.v1 import fleet_pb2
from speculation.cost import probe_plan
from workers.probe import probe_steps
from workers.wire import identity_to_wire, report_to_wire

__all__ = ["hello_of", "probe", "tokenizer_files"]

_PROBE_ROWS, _PROBE_CONTEXT = 64, 256
_PROBE_S = 3.0

# What `engine.text` reads, and what tells others of the special tokens and the way to sample that the model's makers
# recommend. config.json is there for the ids of special tokens, which it holds where no other file does.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
    "chat_template.jinja",
)
_MORE_TEMPLATES = "additional_chat_templates"


def hello_of(name: str, loaded: LoadedEngine, probes: list[fleet_pb2.StepReport]) -> fleet_pb2.FromWorker:
    """The first message on every stream."""
    engine, limits = loaded.engine, loaded.engine.limits
    hello = fleet_pb2.VerifierHello(
        name=name,
        model=identity_to_wire(engine.identity),
        num_ranks=loaded.config.tensor_parallel,
        max_context=limits.max_context,
        max_batch_rows=limits.max_batch_rows,
        num_blocks=engine.pool.num_blocks,
        block_tokens=engine.executor.cache.values.shape[-2],  # [layers, blocks, heads, tokens of a block, head_dim]
        eos_token_ids=loaded.eos_token_ids,
        num_real_tokens=limits.num_real_tokens,
        probes=probes,
        tokenizer_files=tokenizer_files(resolve_folder(loaded.config.model)),
        device=loaded.config.device,
    )
    return fleet_pb2.FromWorker(verifier_hello=hello)


def probe(engine: Engine, clock: Clock, *, most_s: float = _PROBE_S) -> list[fleet_pb2.StepReport]:
    """What steps cost on this machine, as far as can be found out in the given time: the plan begins with the corners
    of the table, so that each part of it is of use. Time begins with the first report: a cold GPU compiles before.
    """
    steps = probe_steps(engine, probe_plan(_PROBE_ROWS, _PROBE_CONTEXT))
    try:
        reports = list(itertools.islice(steps, 1))
        end_s = clock.now_s() + most_s
        reports += itertools.takewhile(lambda _: clock.now_s() < end_s, steps)
    finally:
        steps.close()
    return [report_to_wire(report) for report in reports]


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files that turn text into token ids, by their path in the checkpoint's folder."""
    found = [folder / name for name in _FILES] + sorted((folder / _MORE_TEMPLATES).glob("*.jinja"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.is_file()}
