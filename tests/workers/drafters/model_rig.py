"""What the tests of the model drafter share: tiny models, drafters over them, and the slow truth about a tree."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from contracts.types import ROOT, DrafterId, DraftNode, SamplingParams, SequenceId, StepReport
from engine.work import Draft, Drafted
from speculation.scores import raw_scores
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model
from tests.workers.drafters.rig import A
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.growth import MIN_CONFIDENCE
from workers.drafters.model import ModelDrafter

NUM_TOKENS = 320
MAX_CONTEXT = 256
GREEDY = SamplingParams()
NOISY = SamplingParams(temperature=0.8, seed=5)
SAMPLINGS = (
    GREEDY,
    NOISY,
    SamplingParams(temperature=1.3, top_p=0.9, seed=2**63),
    SamplingParams(temperature=0.7, top_k=3, seed=7, num_logprobs=5),
    SamplingParams(temperature=1.0, seed=9, repetition_penalty=1.4, frequency_penalty=0.8, presence_penalty=0.5),
    SamplingParams(presence_penalty=1.5, logit_bias={17: 12.0, 40: -50.0}),
    SamplingParams(allowed_token_ids=(11, 12, 13, 14, 15, 16)),
    SamplingParams(allowed_token_ids=(21, 22, 23), temperature=0.9, seed=3),
    SamplingParams(allowed_token_ids=(31,)),
)


@cache
def model(dtype: str = "float32", *, seed: int = 0) -> Model:
    """A Qwen3 with a sliding window in one of its two layers."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint(
            Path(folder) / "model",
            "qwen3",
            sliding_window=23,
            num_hidden_layers=2,
            max_position_embeddings=MAX_CONTEXT,
            seed=seed,
            std=0.12,
        )
        return Model.load(path, dtype)


class Rig:
    """A drafter, its engine, and the reports of its steps."""

    def __init__(
        self,
        of: Model,
        *,
        num_blocks: int = 96,
        max_batch_rows: int = 512,
        width: int = 4,
        max_depth: int = 16,
        max_expand: int = 4,
        max_known: int = 256,
    ) -> None:
        self.reports: list[StepReport] = []
        self.engine = of.engine(num_blocks=num_blocks, max_batch_rows=max_batch_rows)
        self.drafter = ModelDrafter(
            drafter=DrafterId("small"),
            engine=self.engine,
            width=width,
            max_depth=max_depth,
            max_expand=max_expand,
            max_known=max_known,
            on_step=self.reports.append,
        )

    def open(self, name: SequenceId, tokens: Sequence[int], sampling: SamplingParams = GREEDY) -> None:
        self.drafter.open([Opening(sequence=name, tenant=A, tokens=tokens, sampling=sampling)])

    def commit(self, name: SequenceId, position: int, tokens: Sequence[int]) -> None:
        self.drafter.commit([Commit(sequence=name, position=position, tokens=tokens)])

    def ask(self, name: SequenceId, num_nodes: int, below: tuple[int, ...] = ()) -> tuple[DraftNode, ...]:
        (tree,) = self.drafter.propose([Ask(sequence=name, num_nodes=num_nodes, below=below)])
        return tree


class Truth:
    """The tree as it should be: every place computed anew, as committed tokens and without a cache, and of all nodes
    that were found always the best one taken, by looking at all of them."""

    def __init__(self, of: Model, *, width: int = 4, max_depth: int = 16) -> None:
        self._engine = of.engine(prefix_cache=False)
        self._width, self._max_depth = width, max_depth

    def tree(
        self, tokens: Sequence[int], sampling: SamplingParams, ask: Ask, *, num_prompt: int | None = None
    ) -> tuple[DraftNode, ...]:
        start = (*tokens, *ask.below)
        num_prompt = len(tokens) if num_prompt is None else num_prompt
        max_depth = min(ask.max_depth or self._max_depth, MAX_CONTEXT - len(start))
        tree: list[DraftNode] = []
        found: list[tuple[float, DraftNode, tuple[int, ...]]] = []

        def look(parent: int, value: float, path: tuple[int, ...]) -> None:
            if len(path) < max_depth:
                for token, confidence in self.children((*start, *path), sampling, num_prompt)[: ask.max_children]:
                    if confidence >= MIN_CONFIDENCE:
                        node = DraftNode(token=token, parent=parent, confidence=confidence, drafter=DrafterId("small"))
                        found.append((value * confidence, node, (*path, token)))

        if ask.num_nodes:
            look(ROOT, 1.0, ())
        while found and len(tree) < ask.num_nodes:
            best = max(found, key=lambda item: item[0])
            found.remove(best)
            tree.append(best[1])
            look(len(tree) - 1, best[0], best[2])
        return tuple(tree)

    def children(self, tokens: Sequence[int], sampling: SamplingParams, num_prompt: int) -> list[tuple[int, float]]:
        name = SequenceId("truth")
        self._engine.open(name, tokens, sampling, num_prompt=num_prompt)
        (outcome,) = self._engine.step([Draft(sequence=name)], num_top=self._width).outcomes
        self._engine.close(name)
        assert isinstance(outcome, Drafted)
        candidates = outcome.proposals[0].candidates
        scores = raw_scores([candidate.value for candidate in candidates], temperature=sampling.temperature)
        total = math.fsum(scores)
        scale = total if total > 1.0 or len(candidates) < self._width else 1.0
        return [(candidate.token, score / scale) for candidate, score in zip(candidates, scores, strict=True)]


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(5, NUM_TOKENS) for _ in range(count)]
