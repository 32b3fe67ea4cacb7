"""One sequence as a drafter without a model sees it: its committed tokens and how they are chosen."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.errors import InvalidArgument, shown
from contracts.types import SamplingParams, SequenceId, TenantId

__all__ = ["Text", "check_tokens"]


@dataclass(slots=True, kw_only=True)
class Text:
    """Changed by `TextDrafter` alone; everyone else reads."""

    sequence: SequenceId
    tenant: TenantId
    sampling: SamplingParams
    tokens: array[int] = field(default_factory=lambda: array("i"))
    num_prompt: int = 0
    """How many of the tokens were there at the opening; those after them were decided while we followed."""

    def tail(self, count: int, below: tuple[int, ...] = ()) -> list[int]:
        """The last tokens of the text followed by `below`: at most `count`."""
        num_own = min(max(count - len(below), 0), len(self.tokens))
        own = self.tokens[len(self.tokens) - num_own :].tolist()
        return own + list(below[max(0, len(below) - count) :])


def check_tokens(tokens: Iterable[int], vocab_size: int, what: str) -> None:
    """Refuses what is not a token of the vocabulary."""
    for token in tokens:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise InvalidArgument(f"{what} holds token {shown(token)}; a token id is an integer in [0, {vocab_size})")
