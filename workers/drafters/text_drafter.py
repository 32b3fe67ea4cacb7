"""What all drafters without a model share: following sequences, and refusing what makes no sense before it does harm.

A kind is a subclass with four hooks: a text was opened, grew, wants a tree, was closed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import ClassVar

from contracts.errors import AlreadyExists, InvalidArgument, NotFound, shown
from contracts.sampling import MAX_TOKEN_ID
from contracts.types import DrafterId, DraftNode, SequenceId, TokenLogprob
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.growth import Grown, within_limits
from workers.drafters.text import Text, check_tokens

__all__ = ["TextDrafter"]

_SPARE = 4  # so many times the nodes are looked at where limits will cut some


class TextDrafter(ABC):
    """A `Drafter` whose state is text. Every call checks all of its parts first, then acts."""

    kind: ClassVar[str]
    num_logprobs: ClassVar[int] = 0

    def __init__(self, *, drafter: DrafterId, vocab_size: int) -> None:
        if not 1 <= vocab_size <= MAX_TOKEN_ID + 1:
            raise InvalidArgument(f"vocab_size is {vocab_size}; it lies in [1, {MAX_TOKEN_ID + 1}]")
        self.drafter = drafter
        self.vocab_size = vocab_size
        self._texts: dict[SequenceId, Text] = {}

    @abstractmethod
    def _opened(self, text: Text) -> None:
        """A text with its first tokens."""

    @abstractmethod
    def _grew(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Tokens from index `first` on were appended."""

    @abstractmethod
    def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> Sequence[Grown]:
        """At most `num_nodes` nodes, parents first."""

    @abstractmethod
    def _closed(self, text: Text) -> None:
        """A text that will not grow any more."""

    @property
    def sequences(self) -> frozenset[SequenceId]:
        """Those that are followed now."""
        return frozenset(self._texts)

    def open(self, openings: Sequence[Opening]) -> None:
        seen: set[SequenceId] = set()
        for opening in openings:
            if opening.sequence in self._texts or opening.sequence in seen:
                raise AlreadyExists(f"sequence {shown(opening.sequence)} is open already; close it first")
            seen.add(opening.sequence)
            check_tokens(opening.tokens, self.vocab_size, f"sequence {shown(opening.sequence)}")
        for opening in openings:
            text = Text(sequence=opening.sequence, tenant=opening.tenant, sampling=opening.sampling)
            text.tokens = array("i", opening.tokens)
            text.num_prompt = len(opening.tokens)
            self._texts[opening.sequence] = text
            self._opened(text)

    def commit(self, commits: Sequence[Commit]) -> None:
        texts = self._texts_of([commit.sequence for commit in commits])
        for commit, text in zip(commits, texts, strict=True):
            self._check(commit, text)
        for commit, text in zip(commits, texts, strict=True):
            first = len(text.tokens)
            text.tokens.extend(commit.tokens)
            self._grew(text, first, commit.logprobs)

    def propose(self, asks: Sequence[Ask]) -> list[tuple[DraftNode, ...]]:
        return [self._nodes(text, ask) for text, ask in zip(self._asked(asks), asks, strict=True)]

    def close(self, sequences: Sequence[SequenceId]) -> None:
        for text in self._texts_of(sequences):
            self._closed(text)
            del self._texts[text.sequence]

    def _asked(self, asks: Sequence[Ask]) -> list[Text]:
        """The texts of asks that all make sense."""
        texts = [self._text(ask.sequence) for ask in asks]
        for ask in asks:
            check_tokens(ask.below, self.vocab_size, f"the path below sequence {shown(ask.sequence)}")
        return texts

    def _nodes(self, text: Text, ask: Ask) -> tuple[DraftNode, ...]:
        if ask.num_nodes == 0:
            return ()
        if ask.max_depth is None and ask.max_children is None:
            grown = self._tree(text, ask.num_nodes, ask.below)
        else:
            # What the limits leave of a larger tree: it is cheap to grow, and each kind stays simple.
            grown = within_limits(
                self._tree(text, _SPARE * ask.num_nodes, ask.below), ask.num_nodes, ask.max_depth, ask.max_children
            )
        return tuple(
            DraftNode(token=token, parent=parent, confidence=confidence, drafter=self.drafter)
            for token, parent, confidence in grown
        )

    def _check(self, commit: Commit, text: Text) -> None:
        name = shown(commit.sequence)
        if commit.position != len(text.tokens):
            raise InvalidArgument(
                f"commit to sequence {name} is at position {shown(commit.position)}; the next is {len(text.tokens)}"
            )
        check_tokens(commit.tokens, self.vocab_size, f"commit to sequence {name}")
        if len(commit.logprobs) not in (0, len(commit.tokens)):
            raise InvalidArgument(
                f"commit to sequence {name} has {len(commit.logprobs)} logprobs for {len(commit.tokens)} tokens; "
                "there are none, or one for each token"
            )
        for logprob in commit.logprobs:
            check_tokens([token for token, _ in logprob.top], self.vocab_size, f"logprobs of sequence {name}")

    def _texts_of(self, sequences: Sequence[SequenceId]) -> list[Text]:
        """The texts of sequences that are all open, none named twice."""
        if len(set(sequences)) != len(sequences):
            twice = next(one for index, one in enumerate(sequences) if one in sequences[:index])
            raise InvalidArgument(f"sequence {shown(twice)} is named twice in one call; name it once")
        return [self._text(sequence) for sequence in sequences]

    def _text(self, sequence: SequenceId) -> Text:
        text = self._texts.get(sequence)
        if text is None:
            raise NotFound(f"sequence {shown(sequence)} is not open here; open it first")
        return text
