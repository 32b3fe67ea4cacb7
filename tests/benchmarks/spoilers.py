"""What the tests of exactness share: tasks with their plain answers, drafters that spoil them, and random pruning."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from contracts.types import ROOT, DrafterId, SamplingParams, SequenceId, TokenLogprob, Verdict
from engine.engine import Engine
from engine.work import Verify
from tests.engine.rig import Model, random_tokens, random_tree
from workers.drafters.growth import Grown
from workers.drafters.text import Text
from workers.drafters.text_drafter import TextDrafter

NUM_TOKENS = 10  # of each answer that are compared
VOCAB_SIZE = 320


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A prompt, how its tokens are chosen, and what plain decoding makes of it."""

    sequence: SequenceId
    prompt: list[int]
    sampling: SamplingParams
    answer: list[int]


class Plain:
    """Decodes one token a step, alone, in an engine of its own."""

    def __init__(self, model: Model) -> None:
        self._engine = model.engine()

    def tasks(self, rng: random.Random, count: int) -> list[Task]:
        return [self._task(SequenceId(f"task {index}"), rng) for index in range(count)]

    def _task(self, name: SequenceId, rng: random.Random) -> Task:
        prompt, sampling = random_tokens(rng, rng.randrange(1, 20)), random_sampling(rng)
        self._engine.open(name, prompt, sampling)
        answer: list[int] = []
        while len(answer) < NUM_TOKENS:
            (verdict,) = self._engine.step([Verify(sequence=name)]).outcomes
            assert isinstance(verdict, Verdict)
            answer += verdict.tokens
        self._engine.close(name)
        return Task(sequence=name, prompt=prompt, sampling=sampling, answer=answer)


def random_sampling(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.0]),
        seed=rng.randrange(2**63),
        top_p=rng.choice([1.0, 0.9, 0.5]),
        top_k=rng.choice([0, 3, 40]),
        min_p=rng.choice([0.0, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        presence_penalty=rng.choice([0.0, 0.8]),
        frequency_penalty=rng.choice([0.0, 0.7]),
        logit_bias=rng.choice([{}, {rng.randrange(VOCAB_SIZE): rng.uniform(-9.0, 9.0) for _ in range(3)}]),
    )


class Spoiler(TextDrafter):
    """Knows the plain answers, and says each token of them rightly with this chance; the rest is garbage."""

    kind: ClassVar[str] = "spoiler"
    num_logprobs: ClassVar[int] = 3

    def __init__(self, name: str, answers: Mapping[SequenceId, Task], rightness: float, rng: random.Random) -> None:
        super().__init__(drafter=DrafterId(name), vocab_size=VOCAB_SIZE)
        self._answers, self._rightness, self._rng = answers, rightness, rng

    def _opened(self, text: Text) -> None:
        pass

    def _grew(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        assert [each.token for each in logprobs] in ([], list(text.tokens[first:]))

    def _closed(self, text: Text) -> None:
        pass

    def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        if self._rng.random() < 0.1:
            return []
        task = self._answers[text.sequence]
        said = [*text.tokens[len(task.prompt) :], *below]
        rest = task.answer[len(said) :] if said == task.answer[: len(said)] else []
        return random_draft(self._rng, num_nodes, rest, self._rightness)


def random_draft(rng: random.Random, num_nodes: int, truth: Sequence[int], rightness: float) -> list[Grown]:
    """A tree without twins, with confidences that mean nothing."""
    found: dict[tuple[int, int], Grown] = {}
    place = {ROOT: ROOT}
    for index, (token, parent) in enumerate(random_tree(rng, num_nodes, truth, rightness=rightness)):
        key = (token, place[parent])
        if key not in found:
            found[key] = Grown(*key, rng.choice([0.0, 1.0, rng.random()]))
        place[index] = list(found).index(key)
    return list(found.values())


class RandomLook:
    """Drops any nodes after any layers."""

    def __init__(self, rng: random.Random, engine: Engine, work: Sequence[Verify]) -> None:
        self.layers: tuple[int, ...] = tuple(layer for layer in range(2) if rng.random() < 0.7)
        self._rng, self._nodes, row = rng, set[int](), 0
        for piece in work:
            first = row + engine.num_pending(piece.sequence)
            row = first + len(piece.nodes)
            self._nodes.update(range(first, row))

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor([row not in self._nodes or self._rng.random() < 0.8 for row in rows.tolist()])
