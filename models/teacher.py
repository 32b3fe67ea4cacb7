"""What the target itself says: its continuations of training prompts, and at each of their tokens the head of its
distribution.

Kept on disk, so that drafters can be distilled many times over without asking the target again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from contracts.errors import CheckpointError
from models.acceptance import Text
from models.chat import END_ID
from models.files import atomic_write_with
from models.generate import Chooser, continue_prompts, greedy, noisy
from models.network import Network

# The rest of the distribution is one number, 1 - sum: 32 tokens hold 99 % and more of it in every domain.
NUM_TOP = 32


@dataclass(frozen=True, kw_only=True)
class TopLogprobs:
    """The teacher's likeliest tokens and their log-probabilities, both [positions, NUM_TOP]."""

    tokens: Tensor  # int64
    logprobs: Tensor  # float32


def top_logprobs(logits: Tensor) -> TopLogprobs:  # [positions, vocab]
    values, tokens = logits.float().log_softmax(-1).topk(min(NUM_TOP, logits.shape[-1]), dim=-1)
    return TopLogprobs(tokens=tokens, logprobs=values)


@dataclass(frozen=True, kw_only=True)
class TeacherTexts:
    texts: list[Text]
    top: list[TopLogprobs]  # for each text: one row per token of its answer

    def __len__(self) -> int:
        return len(self.texts)


def mixed_temperature(temperature: float, seeds: Sequence[int]) -> Chooser:
    """Every second prompt greedy, the others at `temperature`: a fleet serves both."""
    sampled = noisy(temperature, seeds)

    def choose(logits: Tensor, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:  # [rows, vocab]
        likeliest = greedy(logits, prompts, positions)
        is_greedy = torch.tensor([prompt % 2 == 0 for prompt in prompts], device=logits.device)
        return torch.where(is_greedy, likeliest, sampled(logits, prompts, positions))

    return choose


def ask_teacher(
    target: Network, prompts: Sequence[Sequence[int]], *, max_new: int, temperature: float, seed: int
) -> TeacherTexts:
    seeds = [seed + index for index in range(len(prompts))]
    seen: list[list[TopLogprobs]] = [[] for _ in prompts]

    def observe(logits: Tensor, rows: Sequence[int]) -> None:  # [rows, vocab]
        top = top_logprobs(logits.cpu())
        for place, row in enumerate(rows):
            seen[row].append(TopLogprobs(tokens=top.tokens[place], logprobs=top.logprobs[place]))

    answers = continue_prompts(
        target, prompts, max_new=max_new, end_id=END_ID, choose=mixed_temperature(temperature, seeds), observe=observe
    )
    return TeacherTexts(
        texts=[Text(prompt=p, answer=a, seed=s) for p, a, s in zip(prompts, answers, seeds, strict=True)],
        top=[
            TopLogprobs(tokens=torch.stack([t.tokens for t in rows]), logprobs=torch.stack([t.logprobs for t in rows]))
            for rows in seen
        ],
    )


def save_teacher_texts(path: Path, teacher: TeacherTexts) -> None:
    tensors = {
        "prompt_tokens": torch.tensor([token for text in teacher.texts for token in text.prompt], dtype=torch.int32),
        "prompt_lengths": torch.tensor([len(text.prompt) for text in teacher.texts]),
        "answer_tokens": torch.tensor([token for text in teacher.texts for token in text.answer], dtype=torch.int32),
        "answer_lengths": torch.tensor([len(text.answer) for text in teacher.texts]),
        "seeds": torch.tensor([text.seed for text in teacher.texts]),
        "top_tokens": torch.cat([top.tokens for top in teacher.top]).to(torch.int32),
        "top_logprobs": torch.cat([top.logprobs for top in teacher.top]).half(),
    }
    atomic_write_with(path, lambda temporary: save_file(tensors, temporary))


def load_teacher_texts(path: Path) -> TeacherTexts:
    try:
        tensors = load_file(path)
        prompt_lengths, answer_lengths = tensors["prompt_lengths"].tolist(), tensors["answer_lengths"].tolist()
        prompts = torch.split(tensors["prompt_tokens"], prompt_lengths)
        answers = torch.split(tensors["answer_tokens"], answer_lengths)
        top_tokens = torch.split(tensors["top_tokens"].long(), answer_lengths)
        logprobs = torch.split(tensors["top_logprobs"].float(), answer_lengths)
        seeds = tensors["seeds"].tolist()
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds no complete continuations of the target: {error}; delete it to make them again"
        ) from error
    texts = [
        Text(prompt=p.tolist(), answer=a.tolist(), seed=s) for p, a, s in zip(prompts, answers, seeds, strict=True)
    ]
    top = [TopLogprobs(tokens=t, logprobs=v) for t, v in zip(top_tokens, logprobs, strict=True)]
    return TeacherTexts(texts=texts, top=top)
