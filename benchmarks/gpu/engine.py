"""An engine with random weights in the shape of a real model: plain steps and trees of 8 rows, for 1 to 64 sequences.

The weights never lie on a disk: they are drawn on the device under the names that a checkpoint would have.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers

from contracts.types import DrafterId, DraftNode, ModelIdentity, SamplingParams, SequenceId
from engine.captured import CapturedSteps
from engine.checkpoint import Checkpoint
from engine.engine import Engine
from engine.executor import Executor
from engine.model_config import ModelConfig
from engine.ranks import SingleRank
from engine.streams import plain_stream
from engine.topology import Shard
from engine.weights import load_weights
from engine.work import Verify
from kernels.paged import BLOCK_TOKENS, KVCache

__all__ = ["LLAMA_8B", "SEQUENCE_COUNTS", "Measured", "measure", "measure_transformers", "random_engine", "table"]

LLAMA_8B: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SEQUENCE_COUNTS = (1, 2, 4, 8, 16, 32, 64)
NUM_ROWS = 8
_ROOM = 64  # tokens that each sequence may grow by
_MAX_BATCH_ROWS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Median seconds of a step over so many sequences."""

    num_sequences: int
    plain_s: float
    verify_s: float
    num_bytes: int
    """What a plain step has to read: the weights, and the keys and values of all sequences."""


class _RandomTensors:
    """Answers as a `Checkpoint` does that holds random numbers: norms of one, matrices that keep a signal's size."""

    def __init__(self, device: str) -> None:
        self.device = device

    def tensor(
        self, name: str, *, expect: tuple[int, ...], rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        if len(expect) == 1:
            return torch.ones(expect, device=self.device)
        whole = torch.empty(expect, dtype=torch.bfloat16, device=self.device).normal_(std=expect[1] ** -0.5)
        return whole[rows or slice(None), columns or slice(None)]


def random_engine(shape: Mapping[str, Any], *, device: str, num_sequences: int, context: int) -> Engine:
    """Room for so many sequences that begin with `context` tokens."""
    config = ModelConfig.parse(shape)
    shard = Shard(config=config, rank=0, num_ranks=1)
    tensors = cast(Checkpoint, _RandomTensors(device))
    weights = load_weights(tensors, shard, torch.bfloat16, max_context=config.max_context, device=device)
    cache = KVCache(
        num_layers=config.num_layers,
        num_blocks=num_sequences * -(-(context + _ROOM + NUM_ROWS) // BLOCK_TOKENS),
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        dtype=torch.bfloat16,
        device=device,
    )
    ranks = SingleRank()
    executor = Executor(
        weights,
        cache,
        ranks,
        num_threads=1,
        num_real_tokens=config.vocab_size,
        compiled=CapturedSteps.build(weights, ranks, cache),
        stream=plain_stream(device) if device != "cpu" else None,
    )
    identity = ModelIdentity(
        name="random",
        architecture=config.architecture,
        vocab_size=config.vocab_size,
        tokenizer_digest="none",
        weights_digest="none",
        dtype="bfloat16",
        num_parameters=weights.num_bytes // 2,
    )
    return Engine(
        executor, identity, max_context=config.max_context, max_batch_rows=_MAX_BATCH_ROWS, prefix_cache=False
    )


def measure(engine: Engine, *, num_sequences: int, context: int, num_rounds: int = 9) -> Measured:
    """Plain steps and trees in turn, on fresh sequences of equal length."""
    sequences = [SequenceId(str(index)) for index in range(num_sequences)]
    chunk = _MAX_BATCH_ROWS
    for index, sequence in enumerate(sequences):
        engine.open(sequence, _prompt(index, engine.identity.vocab_size, context), SamplingParams())
        while engine.num_pending(sequence) > chunk:
            engine.step([Verify(sequence=sequence, num_pending=chunk)])
        engine.step([Verify(sequence=sequence)])
    chain = tuple(
        DraftNode(token=7 + index, parent=index - 1, confidence=0.5, drafter=DrafterId("chain"))
        for index in range(NUM_ROWS - 1)
    )
    times: dict[int, list[float]] = {0: [], NUM_ROWS: []}
    for _ in range(2 + num_rounds):  # the first two compile and warm up
        for num_rows, nodes in ((0, ()), (NUM_ROWS, chain)):
            work = [Verify(sequence=sequence, nodes=nodes) for sequence in sequences]
            times[num_rows].append(engine.step(work).report.elapsed_s)
    for sequence in sequences:
        engine.close(sequence)
    plain_s, verify_s = (statistics.median(times[num_rows][2:]) for num_rows in (0, NUM_ROWS))
    weights, cache = engine.executor.weights, engine.executor.cache
    per_token = (
        KVCache.bytes_per_block(
            num_layers=cache.num_layers, num_kv_heads=cache.num_kv_heads, head_dim=cache.head_dim, dtype=cache.dtype
        )
        // BLOCK_TOKENS
    )
    return Measured(
        num_sequences=num_sequences,
        plain_s=plain_s,
        verify_s=verify_s,
        num_bytes=weights.num_bytes + num_sequences * context * per_token,
    )


def measure_transformers(
    shape: Mapping[str, Any], *, device: str, num_sequences: int, context: int, num_rounds: int = 9
) -> float:
    """Median seconds of a step of transformers' own model in the same shape and type, over as many sequences."""
    sizes = {key: value for key, value in shape.items() if key not in ("architectures", "model_type")}
    with torch.device(device):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, dtype=torch.bfloat16)).bfloat16().eval()
    prompts = [_prompt(index, shape["vocab_size"], context) for index in range(num_sequences)]
    times = []
    with torch.inference_mode():
        cache = transformers.DynamicCache()
        for tokens in torch.split(torch.tensor(prompts, device=device), _MAX_BATCH_ROWS // num_sequences or 1, dim=1):
            model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = torch.full((num_sequences, 1), 7, device=device)
        for _ in range(2 + num_rounds):
            times.append(_seconds(lambda: model(token, past_key_values=cache, use_cache=True).logits.argmax(-1).cpu()))
    return statistics.median(times[2:])


def _seconds(run: Callable[[], object]) -> float:
    """`run` ends on the host, so that the device is done too."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


def _prompt(index: int, vocab_size: int, context: int) -> list[int]:
    generator = torch.Generator().manual_seed(index)
    tokens: list[int] = torch.randint(1, vocab_size, (context,), generator=generator).tolist()
    return tokens


def table(results: list[Measured], theirs: Mapping[int, float], bytes_per_s: float) -> str:
    """Markdown."""
    lines = [
        f"| sequences | plain ms | share of the bandwidth floor | {NUM_ROWS} rows each, ms | times plain "
        "| transformers ms | times ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for x in results:
        their_s = theirs.get(x.num_sequences)
        beside = f"{1e3 * their_s:.2f} | {their_s / x.plain_s:.2f}" if their_s else "not measured | "
        lines.append(
            f"| {x.num_sequences} | {1e3 * x.plain_s:.2f} | {x.num_bytes / bytes_per_s / x.plain_s:.0%} "
            f"| {1e3 * x.verify_s:.2f} | {x.verify_s / x.plain_s:.2f} | {beside} |"
        )
    return "\n".join(lines)
