"""What a verifier's process does with `device: cuda`, as far as it goes without a GPU: everything but the GPU.

From the configuration to verdicts, through the service's own code; a made-up machine has a GPU, whose kernels run in
Triton's interpreter on the CPU's memory, and a graph is replayed by running again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.clock import Clock
from contracts.config import EngineConfig, MachineFacts, VerifierConfig
from contracts.types import ROOT, SamplingParams
from engine.captured import CapturedSteps
from engine.engine import Engine
from engine.load import load_engine
from specfleet.v1 import fleet_pb2
from tests.engine.checkpoints import write_checkpoint
from tests.engine.test_captured import again
from tests.engine.test_gpu import SIZES
from tests.kernels.gpu.interpreter import interpreter
from tests.workers.router_side import item, opening
from tests.workers.verifier.test_verifier import plain
from workers.verifier.hello import probe
from workers.verifier.hosting import hosted

PROMPT, NUM_MORE = [9, 8, 7], 6
SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, seed=3)
MEMORY = 32 * 2**20


def quick_probe(engine: Engine, clock: Clock) -> list[fleet_pb2.StepReport]:
    """Whose steps take a while in the interpreter."""
    return probe(engine, clock, most_s=0.0)


def bytes_of_block(engine: Engine) -> int:
    cache = engine.executor.cache
    return (cache.keys.nbytes + cache.values.nbytes) // cache.num_blocks


def test_the_service_runs_with_device_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path, "llama", dtype="float32", head_dim=16, **{**SIZES, "num_hidden_layers": 1})
    cpu = load_engine(EngineConfig(model=str(folder), dtype="float32", device="cpu", kv_cache_bytes=2**20)).engine
    truth = plain(cpu, PROMPT, SAMPLING)
    machine = MachineFacts(
        num_cpus=2, memory_bytes=2**36, has_cuda=True, cuda_memory_bytes=MEMORY, cuda_free_bytes=MEMORY
    )
    monkeypatch.setattr("engine.load.machine_facts", lambda device, rank: machine)
    monkeypatch.setattr("engine.load.cuda_device", lambda rank, num_ranks: "cpu")
    monkeypatch.setattr(CapturedSteps, "build", staticmethod(lambda *parts: CapturedSteps(*parts, capture=again)))
    monkeypatch.setattr("workers.verifier.hosting.probe", quick_probe)
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)  # fewer programs: each takes milliseconds here
    monkeypatch.setattr("engine.warm_up._NUM_KEYS", (32,))
    monkeypatch.setattr("engine.warm_up._BATCHES", (1,))
    monkeypatch.setattr("engine.warm_up._TREES", (2,))
    engine = EngineConfig(model=str(folder), dtype="float32", device="cuda", max_batch_rows=16)
    with interpreter(), hosted("verifier", engine, VerifierConfig(num_gpus=0.5)) as node:
        said = node.hello.verifier_hello
        assert said.device == "cuda"
        assert said.probes, "nothing is known of what its steps cost"
        assert 0 < said.num_blocks * bytes_of_block(cpu) < 0.9 * 0.5 * MEMORY
        text, number = list(PROMPT), 0
        opens = [opening(1, PROMPT, SAMPLING)]
        while len(text) < len(PROMPT) + NUM_MORE:
            right, wrong = truth[len(text)], 11
            work = fleet_pb2.VerifierWork(open=opens)
            work.round.CopyFrom(
                fleet_pb2.Round(round=number, items=[item(1, len(text), [(wrong, ROOT), (right, ROOT)])])
            )
            done, opens, number = node.work(work), [], number + 1
            assert done is not None
            assert not done.failures
            text += done.verdicts[0].tokens
        node.reset()
    assert text == truth[: len(text)]
    assert number < len(text) - len(PROMPT), "nothing was accepted"
