"""Token ids to text while they arrive, without ever showing half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer

# Enough of the prompt to know whether it ends within a character, which has at most four bytes.
_CONTEXT_BYTES = 16


class IncrementalDetokenizer:
    """Turns one sequence's tokens into text piece by piece, in constant time a token.

    The pieces joined are what the tokenizer decodes from the whole, behind the prompt: a byte is held back only while
    it may still become part of a character, and becomes U+FFFD only once it cannot. One difference is deliberate.
    Where a byte-fallback tokenizer meets a run of bytes that is not wholly valid, the library gives up the run; a
    stream has shown its valid beginning by then, and keeps it.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool = True) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors=self._token_bytes.errors)
        self._is_first = True
        self._dropped, self._num_to_drop = self._token_bytes.dropped_at_start
        for token_id in self._context_of(prompt_ids):
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if token_id in self._skipped:
            return ""
        content = self._token_bytes.of(token_id, is_first=self._is_first)
        self._is_first = False
        return self._without_start(self._decoder.decode(content))

    def finish(self) -> str:
        """What is still held back: bytes that no token will complete any more."""
        return self._without_start(self._decoder.decode(b"", final=True))

    def _context_of(self, prompt_ids: Sequence[int]) -> Sequence[int]:
        """The end of the prompt, long enough to decide how the next token reads.

        That its first token is taken for the first of a text changes only the context's own text, which nobody sees.
        """
        num_bytes = 0
        for index in range(len(prompt_ids) - 1, -1, -1):
            if prompt_ids[index] not in self._skipped:
                num_bytes += len(self._token_bytes.of(prompt_ids[index]))
            if num_bytes >= _CONTEXT_BYTES + self._num_to_drop:
                return prompt_ids[index:]
        return prompt_ids

    def _without_start(self, text: str) -> str:
        """The text without the characters that the tokenizer adds at the very beginning and takes away again."""
        while text and self._num_to_drop:
            if not text.startswith(self._dropped):
                self._num_to_drop = 0
                break
            text = text[len(self._dropped) :]
            self._num_to_drop -= 1
        return text


def detokenize(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], token_ids: Sequence[int], *, skip_special_tokens: bool = True
) -> str:
    """The text of finished tokens behind a prompt: by construction the same as a stream of them gives."""
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids, skip_special_tokens=skip_special_tokens)
    return "".join([*map(detokenizer.push, token_ids), detokenizer.finish()])
