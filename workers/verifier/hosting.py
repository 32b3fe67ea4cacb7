"""From a configuration to the node of a verifier group. Importing this loads the model library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from contracts.clock import SystemClock
from contracts.config import EngineConfig, VerifierConfig
from engine.local_group import local_engine
from specfleet.tracing import traced
from workers.pruning import pruner_from
from workers.verifier.hello import hello_of, probe
from workers.verifier.node import VerifierNode

__all__ = ["hosted"]


@contextlib.contextmanager
def hosted(name: str, engine: EngineConfig, verifier: VerifierConfig) -> Iterator[VerifierNode]:
    """The target with all its ranks, its steps measured, ready to join; the ranks end with the block."""
    with traced("verifier", name) as tracing, local_engine(engine, gpu_share=verifier.num_gpus) as loaded:
        hello = hello_of(name, loaded, probe(loaded.engine, SystemClock()))
        pruner = pruner_from(loaded.engine, verifier.max_above)
        yield VerifierNode(loaded.engine, name=name, hello=hello, pruner=pruner, tracing=tracing)
