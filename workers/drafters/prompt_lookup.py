"""Prompt lookup: what followed the last tokens when they occurred before in the same text.

After Prompt Lookup Decoding (Saxena, 2023), which searches the prompt for the last few tokens and copies what follows
the first place found. Here the search is a suffix automaton that grows with the text, so the match is the longest
possible one, costs amortised constant time per token however long the text is, and knows all continuations and how
often each occurred. They become a tree: counts of the longest match, joined with those of its next shorter ones
(`growth.blend`), and grown best first.

Why it is right: where an answer copies (code edits, summaries, quotes), a long match continues as it did before, and
the share of its earlier continuations estimates the chance. Where nothing repeats there is no match and no node.

Nothing is remembered beyond a sequence, so nothing can reach another tenant.
"""

from __future__ import annotations

from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, SequenceId, TokenLogprob
from workers.drafters.growth import Candidate, Grown, blend, grow
from workers.drafters.suffix_automaton import EMPTY, SuffixAutomaton
from workers.drafters.text import Text
from workers.drafters.text_drafter import TextDrafter

__all__ = ["PromptLookup"]

Match = tuple[int, int]
"""A state of the automaton, and how many tokens of it match."""


class PromptLookup(TextDrafter):
    """See the module.

    A match shorter than `min_match` proposes nothing. A text longer than `max_tokens` is known by its end only: at that
    length the automaton starts anew from the last half of them, which doubles the cost per token at most.
    """

    kind: ClassVar[str] = "prompt_lookup"

    def __init__(
        self,
        *,
        drafter: DrafterId,
        vocab_size: int,
        min_match: int = 1,
        max_tokens: int = 2**17,
        max_depth: int = 16,
        max_children: int = 8,
        num_contexts: int = 3,
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=vocab_size)
        if min_match < 1 or max_tokens < 2 or max_depth < 1 or max_children < 1 or num_contexts < 1:
            raise InvalidArgument(
                f"prompt lookup has min_match={min_match}, max_tokens={max_tokens}, max_depth={max_depth}, "
                f"max_children={max_children}, num_contexts={num_contexts}; each is 1 or more, and max_tokens 2 or more"
            )
        self.min_match = min_match
        self.max_tokens = max_tokens
        self.max_depth = max_depth
        self.max_children = max_children
        self.num_contexts = num_contexts
        self._automata: dict[SequenceId, SuffixAutomaton] = {}

    def _opened(self, text: Text) -> None:
        self._automata[text.sequence] = SuffixAutomaton()
        self._grew(text, 0, ())

    def _grew(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        automaton = self._automata[text.sequence]
        for index in range(first, len(text.tokens)):
            if automaton.length[automaton.last] == self.max_tokens:
                automaton = SuffixAutomaton()
                for token in text.tokens[index - self.max_tokens // 2 : index]:
                    automaton.append(token)
                self._automata[text.sequence] = automaton
            automaton.append(text.tokens[index])

    def _closed(self, text: Text) -> None:
        del self._automata[text.sequence]

    def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        automaton = self._automata[text.sequence]
        if below:
            state, matched = automaton.last, automaton.length[automaton.last]
            for token in below:
                state, matched = automaton.advance(state, matched, token)
        else:
            # The whole text was never followed by anything: the longest suffix that was is its link.
            state = max(automaton.link[automaton.last], EMPTY)
            matched = automaton.length[state]
        return grow(
            (state, matched), lambda match, _: self._expand(automaton, match), num_nodes, max_depth=self.max_depth
        )

    def _expand(self, automaton: SuffixAutomaton, match: Match) -> list[Candidate[Match]]:
        """What followed the longest matches; each token with the longest of them that it followed."""
        after: dict[int, Match] = {}
        levels: list[tuple[list[tuple[int, float]], float, float]] = []
        state, matched = match
        while matched >= self.min_match and len(levels) < self.num_contexts:
            counts = []
            for token, target in automaton.continuations(state):
                counts.append((token, float(automaton.count[target])))
                after.setdefault(token, (target, matched + 1))
            if total := sum(count for _, count in counts):
                levels.append((counts, total, 1.0 / matched))
            state = automaton.link[state]
            matched = automaton.length[state]
        return [(token, confidence, after[token]) for token, confidence in blend(levels, self.max_children)]
