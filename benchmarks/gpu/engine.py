"""An engine with random weights in the shape of a real model: plain steps and trees of 8 rows, for 1 to 64 sequences.
And transformers' own model of that shape, where there is one.

The weights never lie on a disk: they are drawn on the device under the names that a checkpoint would have.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from benchmarks.gpu.table import Row, failed, not_measured
from contracts.types import DrafterId, DraftNode, ModelIdentity, SamplingParams, SequenceId
from engine.captured import CapturedSteps
from engine.checkpoint import Checkpoint
from engine.engine import Engine
from engine.executor import Executor
from engine.model_config import ModelConfig
from engine.ranks import SingleRank
from engine.streams import EngineStream, plain_stream
from engine.topology import Shard
from engine.weights import load_weights
from engine.work import Verify
from kernels.paged import BLOCK_TOKENS, KVCache

__all__ = [
    "LLAMA_8B",
    "NUM_ROWS",
    "SEQUENCE_COUNTS",
    "Measured",
    "give_back",
    "measure",
    "measure_transformers",
    "prompt",
    "random_engine",
    "rows",
    "sequences_of",
    "transformers_model",
]

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


def random_engine(
    shape: Mapping[str, Any], *, device: str, num_sequences: int, context: int, stream: EngineStream | None = None
) -> Engine:
    """Room for so many sequences that begin with `context` tokens; on a plain stream unless another is given."""
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
        stream=stream or (plain_stream(device) if device != "cpu" else None),
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
    opened = list[SequenceId]()
    try:
        for index, sequence in enumerate(sequences):
            engine.open(sequence, prompt(index, engine.identity.vocab_size, context), SamplingParams())
            opened.append(sequence)
            while engine.num_pending(sequence) > _MAX_BATCH_ROWS:
                engine.step([Verify(sequence=sequence, num_pending=_MAX_BATCH_ROWS)])
            engine.step([Verify(sequence=sequence)])
        plain_s, verify_s = _plain_and_verify_s(engine, sequences, num_rounds)
    finally:
        for sequence in opened:
            engine.close(sequence)
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


def _plain_and_verify_s(engine: Engine, sequences: Sequence[SequenceId], num_rounds: int) -> tuple[float, float]:
    chain = tuple(
        DraftNode(token=7 + index, parent=index - 1, confidence=0.5, drafter=DrafterId("chain"))
        for index in range(NUM_ROWS - 1)
    )
    times = list[tuple[float, float]]()
    for _ in range(2 + num_rounds):  # the first two compile and warm up
        plain_s, verify_s = (
            engine.step([Verify(sequence=sequence, nodes=nodes) for sequence in sequences]).report.elapsed_s
            for nodes in ((), chain)
        )
        times.append((plain_s, verify_s))
    plain, verify = zip(*times[2:], strict=True)
    return statistics.median(plain), statistics.median(verify)


def transformers_model(shape: Mapping[str, Any], *, device: str) -> Any:
    """Made in bfloat16 at once: in float32 first it would take twice the memory."""
    import transformers

    sizes = {key: value for key, value in shape.items() if key not in ("architectures", "model_type")}
    with torch.device(device):
        config = transformers.LlamaConfig(**sizes)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def measure_transformers(model: Any, *, num_sequences: int, context: int, num_rounds: int = 9) -> float:
    """Median seconds of a step of transformers' own model in the same shape and type, over as many sequences."""
    import transformers

    prompts = [prompt(index, model.config.vocab_size, context) for index in range(num_sequences)]
    times = []
    with torch.inference_mode():
        cache = transformers.DynamicCache()
        chunks = torch.split(torch.tensor(prompts, device=model.device), _MAX_BATCH_ROWS // num_sequences or 1, dim=1)
        for tokens in chunks:
            model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = torch.full((num_sequences, 1), 7, device=model.device)
        for _ in range(2 + num_rounds):
            times.append(_seconds(lambda: model(token, past_key_values=cache, use_cache=True).logits.argmax(-1).cpu()))
    return statistics.median(times[2:])


def _seconds(run: Callable[[], object]) -> float:
    """`run` ends on the host, so that the device is done too."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


def prompt(index: int, vocab_size: int, context: int) -> list[int]:
    """Any tokens, the same every time."""
    generator = torch.Generator().manual_seed(index)
    tokens: list[int] = torch.randint(1, vocab_size, (context,), generator=generator).tolist()
    return tokens


def rows(
    shape: Mapping[str, Any],
    *,
    context: int,
    bytes_per_s: float,
    device: str = "cuda",
    counts: Sequence[int] = SEQUENCE_COUNTS,
    num_rounds: int = 9,
) -> Iterator[Row]:
    """Ours for all numbers of sequences, then transformers beside it: both at once would not fit on a smaller GPU."""
    measured = dict[int, Measured]()
    try:
        ours = random_engine(shape, device=device, num_sequences=max(counts), context=context)
        for count in counts:
            try:
                found = measure(ours, num_sequences=count, context=context, num_rounds=num_rounds)
            except Exception as error:  # noqa: BLE001  # one number of sequences says nothing of the others
                yield failed("engine", sequences_of(count), error)
                continue
            measured[count] = found
            yield from _rows_of(found, bytes_per_s)
        del ours
    except Exception as error:  # noqa: BLE001  # nor the engine of transformers
        yield failed("engine", "its weights and cache", error)
    give_back(device)
    yield from _rows_of_transformers(shape, measured, context, device, counts, num_rounds)


def _rows_of(x: Measured, bytes_per_s: float) -> Iterator[Row]:
    """A tree has the floor of a plain step: what it reads is the same."""
    name, floor_s = sequences_of(x.num_sequences), x.num_bytes / bytes_per_s
    yield Row(part="engine", name=f"{name}, plain", elapsed_s=x.plain_s, floor_s=floor_s)
    yield Row(
        part="engine",
        name=f"{name}, {NUM_ROWS} rows each",
        elapsed_s=x.verify_s,
        floor_s=floor_s,
        beside=f"{x.verify_s / x.plain_s:.2f} times plain",
    )


def _rows_of_transformers(
    shape: Mapping[str, Any],
    ours: Mapping[int, Measured],
    context: int,
    device: str,
    counts: Sequence[int],
    num_rounds: int,
) -> Iterator[Row]:
    try:
        model = transformers_model(shape, device=device)
    except ImportError as error:
        yield not_measured("transformers", "all", error)
        return
    except Exception as error:  # noqa: BLE001  # a row, as everywhere
        yield failed("transformers", "its weights", error)
        return
    for count in counts:
        name = f"{sequences_of(count)}, plain"
        try:
            elapsed_s = measure_transformers(model, num_sequences=count, context=context, num_rounds=num_rounds)
        except Exception as error:  # noqa: BLE001  # the same for one number
            yield failed("transformers", name, error)
        else:
            beside = f"{elapsed_s / ours[count].plain_s:.2f} times ours" if count in ours else "ours not measured"
            yield Row(part="transformers", name=name, elapsed_s=elapsed_s, beside=beside)
        give_back(device)


def sequences_of(count: int) -> str:
    """In words."""
    return f"{count} sequence{'s' if count > 1 else ''}"


def give_back(device: str) -> None:
    """Memory that nobody holds any more."""
    if device == "cuda":
        torch.cuda.empty_cache()
