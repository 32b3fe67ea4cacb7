"""What the engine's tests share: engines over one set of weights, and a row's logits when it is computed alone."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from contracts.types import ROOT, DrafterId, DraftNode, ModelIdentity, SamplingParams, SequenceId
from engine import executor as executor_module
from engine.checkpoint import Checkpoint
from engine.compiled import CompiledStep
from engine.engine import Engine
from engine.executor import Executor
from engine.ranks import SingleRank
from engine.sampler import sample
from engine.text.tokenizer import Tokenizer
from engine.topology import Shard
from engine.weights import Weights, load_weights
from engine.work import StepResult, Verify, Work
from kernels import native
from kernels.paged import KVCache

GREEDY = SamplingParams()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Weights that many engines may run on, each with a cache of its own."""

    weights: Weights
    identity: ModelIdentity
    num_real_tokens: int
    is_reference: bool

    @staticmethod
    def load(folder: Path, dtype: str, *, is_reference: bool = False) -> Model:
        """A checkpoint's weights; with `is_reference` unpacked, for the torch references alone."""
        with Checkpoint.open(str(folder)) as checkpoint, running(is_reference):
            tokenizer = Tokenizer.load(folder)
            config = checkpoint.config
            shard = Shard(config=config, rank=0, num_ranks=1)
            return Model(
                weights=load_weights(checkpoint, shard, DTYPES[dtype], max_context=config.max_context),
                identity=checkpoint.identity(tokenizer),
                num_real_tokens=min(tokenizer.num_real_tokens, config.vocab_size),
                is_reference=is_reference,
            )

    def engine(
        self,
        *,
        num_blocks: int = 96,
        is_compiled: bool = True,
        prefix_cache: bool = True,
        max_batch_rows: int = 512,
        num_threads: int = 1,
    ) -> Engine:
        """A fresh engine; `is_compiled` chooses between the compiled step and one layer after another."""
        config = self.weights.shard.config
        cache = KVCache(
            num_layers=config.num_layers,
            num_blocks=num_blocks,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            dtype=self.weights.dtype,
        )
        # Whatever is read before it is written must show.
        cache.keys.fill_(float("nan"))
        cache.values.fill_(float("nan"))
        compiled = CompiledStep.build(self.weights, cache) if is_compiled else None
        assert (compiled is not None) == is_compiled
        runner = Executor(
            self.weights,
            cache,
            SingleRank(),
            num_threads=num_threads,
            num_real_tokens=self.num_real_tokens,
            compiled=compiled,
        )
        return Engine(
            runner,
            self.identity,
            max_context=config.max_context,
            max_batch_rows=max_batch_rows,
            prefix_cache=prefix_cache,
        )


@contextlib.contextmanager
def running(is_reference: bool) -> Iterator[None]:
    """Inside, operations are the torch references where asked for."""
    with native.reference_only() if is_reference else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def recorded_logits() -> Iterator[list[torch.Tensor]]:
    """Collects the logits of each step's chosen rows, before any processor touches them."""
    found: list[torch.Tensor] = []

    def record_and_sample(logits: torch.Tensor, *rest: Any, **named: Any) -> Any:
        found.append(logits.clone())
        return sample(logits, *rest, **named)

    with mock.patch.object(executor_module, "sample", record_and_sample):
        yield found


def step_with_logits(engine: Engine, work: Sequence[Work], **named: Any) -> tuple[StepResult, list[torch.Tensor]]:
    """The result, and for each piece of work the logits [choices, vocabulary] of its deciding rows."""
    counts = [num_choices(engine, piece) for piece in work]
    with recorded_logits() as found:
        result = engine.step(work, **named)
    logits = found[0] if found else torch.empty(0, engine.identity.vocab_size)
    return result, list(torch.split(logits, counts))


def num_choices(engine: Engine, piece: Work) -> int:
    """How many rows of the work decide something: the last committed token, if it is computed, and each node."""
    pending = engine.num_pending(piece.sequence)
    count = pending if piece.num_pending is None else piece.num_pending
    return (count > 0) + len(piece.nodes) if count == pending else 0


class Alone:
    """One sequence in an engine of its own, one row a step: what every other way must equal bit for bit.

    Whole blocks that it computed this way itself are found again in its prefix cache, to save time.
    """

    def __init__(self, model: Model, *, is_compiled: bool) -> None:
        self._engine = model.engine(is_compiled=is_compiled)
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def logits_after(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [vocabulary] of the last of the tokens."""
        wanted = tuple(tokens)
        if wanted not in self._known:
            self.decode(wanted, GREEDY, 1)
        return self._known[wanted]

    def decode(self, prompt: Sequence[int], sampling: SamplingParams, num_tokens: int) -> list[int]:
        """Plain decoding, prompt included one token at a time."""
        name = SequenceId("alone")
        self._engine.open(name, prompt, sampling)
        while self._engine.num_pending(name) > 1:
            self._engine.step([Verify(sequence=name, num_pending=1)])
        for _ in range(num_tokens):
            before = self._engine.tokens_of(name)
            _, (logits,) = step_with_logits(self._engine, [Verify(sequence=name)])
            self._known[before] = logits[0]
        tokens = list(self._engine.tokens_of(name))[len(prompt) :]
        self._engine.close(name)
        return tokens


def node(token: int, parent: int = ROOT) -> DraftNode:
    return DraftNode(token=token, parent=parent, confidence=0.5, drafter=DrafterId("test"))


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(5, 320) for _ in range(count)]


def random_tree(
    rng: random.Random, size: int, truth: Sequence[int], *, rightness: float = 0.6
) -> list[tuple[int, int]]:
    """Nodes (token, parent) of any shape; below right nodes some are right again, the others are garbage."""
    depth_right: dict[int, int] = {ROOT: 0}  # how deep a right node is; wrong ones are absent
    nodes: list[tuple[int, int]] = []
    for index in range(size):
        parent = rng.choice([ROOT, *range(index), *depth_right])
        depth = depth_right.get(parent)
        if depth is not None and depth < len(truth) and rng.random() < rightness:
            nodes.append((truth[depth], parent))
            depth_right[index] = depth + 1
        else:
            nodes.append((rng.randrange(5, 320), parent))
    return nodes


def path_tokens(nodes: Sequence[tuple[int, int]], index: int) -> list[int]:
    """Tokens from the root down to a node, itself included."""
    path: list[int] = []
    while index != ROOT:
        token, index = nodes[index]
        path.append(token)
    return path[::-1]


def verify_of(name: SequenceId, nodes: Sequence[tuple[int, int]]) -> Verify:
    return Verify(sequence=name, nodes=tuple(node(token, parent) for token, parent in nodes))


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equality that tells 0.0 from -0.0 and lets NaN equal itself."""
    return left.shape == right.shape and torch.equal(*(x.contiguous().view(torch.int32) for x in (left, right)))
