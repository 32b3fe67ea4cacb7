"""What penalties make of a sequence: an edit of the logit of each token that it holds."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from contracts.types import SamplingParams

__all__ = ["TokenHistory"]

Array = np.ndarray[Any, np.dtype[Any]]


class TokenHistory:
    """The edits of committed tokens, brought up to date when asked; costs nothing where no penalty is active.

    They are kept as arrays, because each row of each step takes a copy, and a long sequence has thousands of them.
    """

    def __init__(self, sampling: SamplingParams, num_prompt: int) -> None:
        self._sampling, self._num_prompt = sampling, num_prompt
        self._num_counted = 0
        self._num_generated: Counter[int] = Counter()  # a prompt token counts 0, but is there
        self._tokens = array("q", sampling.logit_bias)
        self._values = array("f", [x for bias in sampling.logit_bias.values() for x in (1.0, bias)])
        self._places = {token: place for place, token in enumerate(self._tokens)}
        self.is_active = (
            sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        )

    def edits(self, tokens: Items[int], path: Items[int]) -> tuple[Array, Array]:
        """The edited tokens [n] and their (repetition factor, addend) float32 [n, 2], for the row after `tokens` and,
        below them, the nodes of `path`.

        The repetition factor holds for prompt and answer, presence and frequency for the answer alone.
        """
        if self.is_active:
            self._count(tokens)
        edited, values = np.array(self._tokens), np.array(self._values).reshape(-1, 2)
        if not self.is_active or not path:
            return edited, values
        below = Counter(path)
        replaced = [self._places[token] for token in below if token in self._places]
        counted_anew = [self._edit(token, self._num_generated[token] + count) for token, count in below.items()]
        return (
            np.append(np.delete(edited, replaced), list(below)),
            np.append(np.delete(values, replaced, axis=0), np.array(counted_anew, np.float32), axis=0),
        )

    def _count(self, tokens: Items[int]) -> None:
        new = tokens[self._num_counted :]
        for index, token in enumerate(new, start=self._num_counted):
            self._num_generated[token] += index >= self._num_prompt
        self._num_counted = len(tokens)
        for token in set(new):
            count = self._num_generated[token]
            if count == 0 and self._sampling.repetition_penalty == 1.0:
                continue  # a token of the prompt alone, which only the repetition penalty knows
            place = self._places.setdefault(token, len(self._tokens))  # at the end a slice's assignment appends
            self._tokens[place : place + 1] = array("q", [token])
            self._values[2 * place : 2 * place + 2] = array("f", self._edit(token, count))

    def _edit(self, token: int, count: int) -> tuple[float, float]:
        s = self._sampling
        penalty = s.frequency_penalty * count + (s.presence_penalty if count > 0 else 0.0)
        return s.repetition_penalty, s.logit_bias.get(token, 0.0) - penalty
