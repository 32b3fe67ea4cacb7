"""How much of a target's text a drafter would have guessed: tokens committed per round.

The target's text does not depend on drafters, and a chain of drafts is accepted only as far as it equals that text. So
the draft that decides at a position always stands on the target's own text before it, and one pass of the drafter over
the finished text gives every draft that matters: no round has to be played."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.generate import noisy
from models.network import Network

CHAIN = 8


@dataclass(frozen=True, kw_only=True)
class Text:
    """A prompt with the target's own continuation, and the seed of its noise."""

    prompt: Sequence[int]
    answer: Sequence[int]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    num_committed: int
    num_rounds: int

    @property
    def per_round(self) -> float:
        return self.num_committed / self.num_rounds if self.num_rounds else 0.0

    def __add__(self, other: "Acceptance") -> "Acceptance":
        return Acceptance(
            num_committed=self.num_committed + other.num_committed, num_rounds=self.num_rounds + other.num_rounds
        )


def play_rounds(matches: Sequence[bool], chain: int = CHAIN) -> Acceptance:
    """Rounds of one text: each commits the drafts that match, at most `chain`, and the target's own next token.

    >>> play_rounds([True, True, False, True], chain=8)
    Acceptance(num_committed=4, num_rounds=2)
    """
    position = num_rounds = 0
    while position < len(matches):
        num_accepted = 0
        while num_accepted < chain and position + num_accepted < len(matches) and matches[position + num_accepted]:
            num_accepted += 1
        position += num_accepted + 1
        num_rounds += 1
    return Acceptance(num_committed=len(matches), num_rounds=num_rounds)


def acceptance(drafter: Network, texts: Sequence[Text], *, temperature: float, chain: int = CHAIN) -> Acceptance:
    total = Acceptance(num_committed=0, num_rounds=0)
    for text, matches in zip(texts, draft_matches(drafter, texts, temperature=temperature), strict=True):
        if text.answer:
            total = total + play_rounds(matches, chain)
    return total


@torch.no_grad()
def draft_matches(
    drafter: Network, texts: Sequence[Text], *, temperature: float, batch_rows: int = 16
) -> list[list[bool]]:
    """For every token of every answer: would the drafter, with the same noise, have said it?"""
    choose = noisy(temperature, [text.seed for text in texts])
    matches: list[list[bool]] = [[] for _ in texts]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].prompt) + len(texts[index].answer))
    for first in range(0, len(order), batch_rows):
        rows = order[first : first + batch_rows]
        logits = answer_logits(drafter, [texts[row] for row in rows])
        for row, row_logits in zip(rows, logits, strict=True):
            text = texts[row]
            positions = range(len(text.prompt), len(text.prompt) + len(text.answer))
            drafts = choose(row_logits, [row] * len(positions), positions)
            matches[row] = (drafts.cpu() == torch.tensor(text.answer)).tolist()
    return matches


def answer_logits(network: Network, texts: Sequence[Text]) -> list[Tensor]:
    """For every text the logits that predict its answer: [len(answer), vocab]."""
    longest = max(len(text.prompt) + len(text.answer) for text in texts)
    padded = [[*text.prompt, *text.answer] + [0] * (longest - len(text.prompt) - len(text.answer)) for text in texts]
    hidden = network(torch.tensor(padded, device=network.device))
    starts = [len(text.prompt) - 1 for text in texts]
    return [
        F.linear(hidden[row, start : start + len(text.answer)], network.embed_tokens.weight)
        for row, (start, text) in enumerate(zip(starts, texts, strict=True))
    ]


@torch.no_grad()
def answer_loss(network: Network, texts: Sequence[Text], batch_rows: int = 16) -> tuple[float, int]:
    """Sum of -log p over all answer tokens, and their number."""
    total, count = 0.0, 0
    for first in range(0, len(texts), batch_rows):
        part = texts[first : first + batch_rows]
        for text, logits in zip(part, answer_logits(network, part), strict=True):
            total += F.cross_entropy(logits, torch.tensor(text.answer, device=logits.device), reduction="sum").item()
            count += len(text.answer)
    return total, count
