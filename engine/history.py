"""What penalties need to know of a sequence: which tokens it holds, and how often each was generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Items

from contracts.types import SamplingParams

__all__ = ["TokenHistory"]


class TokenHistory:
    """Counts of committed tokens, brought up to date when asked; costs nothing where no penalty is active."""

    def __init__(self, sampling: SamplingParams, num_prompt: int) -> None:
        self._sampling, self._num_prompt = sampling, num_prompt
        self._num_counted = 0
        self._num_generated: Counter[int] = Counter()  # a prompt token counts 0, but is there
        self.is_active = (
            sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        )

    def edits(self, tokens: Items[int], path: Items[int]) -> dict[int, tuple[float, float]]:
        """token -> (repetition factor, addend) for the row after `tokens` and, below them, the nodes of `path`.

        The repetition factor holds for prompt and answer, presence and frequency for the answer alone.
        """
        s = self._sampling
        edits = {token: (1.0, bias) for token, bias in s.logit_bias.items()}
        if not self.is_active:
            return edits
        self._count(tokens)
        counts = self._num_generated
        if path:
            counts = counts.copy()
            counts.update(path)
        for token, count in counts.items():
            if count == 0 and s.repetition_penalty == 1.0:
                continue  # a token of the prompt alone, which only the repetition penalty knows
            _, bias = edits.get(token, (1.0, 0.0))
            penalty = s.frequency_penalty * count + (s.presence_penalty if count > 0 else 0.0)
            edits[token] = (s.repetition_penalty, bias - penalty)
        return edits

    def _count(self, tokens: Items[int]) -> None:
        for index in range(self._num_counted, len(tokens)):
            self._num_generated[tokens[index]] += index >= self._num_prompt
        self._num_counted = len(tokens)
