"""Packs the target's texts into rows of one length, so that a drafter's step has one shape and no padding to speak of.

Attention stays inside a text and positions are relative, so a packed text is computed as if it stood alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contracts.errors import InvalidArgument
from models.acceptance import Text
from models.chat import PAD_ID
from models.teacher import NUM_TOP, TopLogprobs


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    tokens: Tensor  # [rows, length] int64
    documents: Tensor  # [rows, length] int64: number of the text in its row; 0: padding
    answers: Tensor  # [rows, length] bool: what this position predicts is a token of an answer

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class PackedTop:
    """The teacher's likeliest next tokens at every position; where nothing is known, a row of tokens 0."""

    tokens: Tensor  # [rows, length, NUM_TOP] int16
    logprobs: Tensor  # [rows, length, NUM_TOP] float16


def plan_rows(texts: Sequence[Text], length: int) -> list[list[int]]:
    """Indices of the texts of each row: in order, a new row whenever the next text does not fit."""
    rows: list[list[int]] = []
    room = 0
    for index, text in enumerate(texts):
        size = len(text.prompt) + len(text.answer)
        if size > length:
            raise InvalidArgument(
                f"a text of {size} tokens does not fit into rows of {length}; make rows longer or answers shorter"
            )
        if size > room:
            rows.append([])
            room = length
        rows[-1].append(index)
        room -= size
    return rows


def pack(texts: Sequence[Text], plan: Sequence[Sequence[int]], length: int) -> PackedRows:
    tokens = torch.full((len(plan), length), PAD_ID)
    documents = torch.zeros(len(plan), length, dtype=torch.int64)
    answers = torch.zeros(len(plan), length, dtype=torch.bool)
    for row, number, start, text in places(texts, plan):
        middle, end = start + len(text.prompt), start + len(text.prompt) + len(text.answer)
        tokens[row, start:end] = torch.tensor([*text.prompt, *text.answer])
        documents[row, start:end] = number
        answers[row, middle - 1 : end - 1] = True
    return PackedRows(tokens=tokens, documents=documents, answers=answers)


def pack_top(
    texts: Sequence[Text], tops: Sequence[TopLogprobs], plan: Sequence[Sequence[int]], length: int
) -> PackedTop:
    num_top = tops[0].tokens.shape[-1] if tops else NUM_TOP
    tokens = torch.zeros(len(plan), length, num_top, dtype=torch.int16)
    logprobs = torch.zeros(len(plan), length, num_top, dtype=torch.float16)
    index = iter(index for row in plan for index in row)
    for row, _, start, text in places(texts, plan):
        top = tops[next(index)]
        first = start + len(text.prompt) - 1
        tokens[row, first : first + len(text.answer)] = top.tokens.to(torch.int16)
        logprobs[row, first : first + len(text.answer)] = top.logprobs.half()
    return PackedTop(tokens=tokens, logprobs=logprobs)


def places(texts: Sequence[Text], plan: Sequence[Sequence[int]]) -> list[tuple[int, int, int, Text]]:
    """Row, number within the row from 1, and first position of every text."""
    found = []
    for row, indices in enumerate(plan):
        start = 0
        for number, index in enumerate(indices, start=1):
            found.append((row, number, start, texts[index]))
            start += len(texts[index].prompt) + len(texts[index].answer)
    return found
