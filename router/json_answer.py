"""Answers that have to fit a JSON schema: which tokens may follow, for the committed text and below every draft node.

The grammar decides at the target, where a token that may not follow gets no probability; so drafts cannot break the
form, and one that would is never accepted. The text is the same with and without drafts, as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

from contracts.errors import Internal, InvalidArgument
from contracts.types import ROOT

__all__ = ["Grammars", "JsonAnswer"]

_MAX_SCHEMA = 256 * 1024
_MOST_SAID = 300  # of what the library says of a schema, all of which it may repeat


class Grammars:
    """Compiles schemas for one tokenizer."""

    def __init__(self, tokenizer_file: Path, *, vocab_size: int, end_tokens: Sequence[int]) -> None:
        self._num_bytes = -(-vocab_size // 8)
        self._tokenizer = LLTokenizer(str(tokenizer_file), n_vocab=vocab_size, eos_token=sorted(end_tokens) or None)

    def answer(self, json_schema: str) -> JsonAnswer:
        """A constraint at its start. Slow for large schemas: to be called in a thread."""
        if len(json_schema) > _MAX_SCHEMA:
            raise InvalidArgument(
                f"json_schema has {len(json_schema)} characters; at most {_MAX_SCHEMA} are read",
                details={"field": "json_schema"},
            )
        try:
            grammar = LLMatcher.grammar_from_json_schema(json_schema)
        except ValueError as error:
            raise InvalidArgument(f"json_schema is no schema: {error}", details={"field": "json_schema"}) from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error()
            if len(reason) > _MOST_SAID:  # what is wrong stands at its beginning or at its end
                reason = f"{reason[: _MOST_SAID // 2]} ... {reason[-_MOST_SAID // 2 :]}"
            raise InvalidArgument(f"json_schema is refused: {reason}", details={"field": "json_schema"})
        return JsonAnswer(matcher, self._num_bytes)


class JsonAnswer:
    """See the module. A `Constraint` for the scheduler."""

    def __init__(self, matcher: LLMatcher, num_bytes: int) -> None:
        self._matcher, self._num_bytes = matcher, num_bytes
        self._anything = b"\xff" * num_bytes

    def copy(self) -> JsonAnswer:
        """For another choice of the same request."""
        return JsonAnswer(self._matcher.deep_copy(), self._num_bytes)

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> tuple[bytes, ...]:
        masks = [self._mask(), *[self._anything] * len(tokens)]  # below what may not follow nothing is decided
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(parents):
            children.setdefault(parent, []).append(node)
        self._walk(ROOT, tokens, children, masks)
        return tuple(masks)

    def advance(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self._matcher.is_stopped():
                return  # what follows the end is not taken
            if not self._matcher.consume_token(token):
                raise Internal(f"token {token} was decided and does not fit the schema: {self._matcher.get_error()}")

    def _walk(self, at: int, tokens: Sequence[int], children: dict[int, list[int]], masks: list[bytes]) -> None:
        """Tries every child where the matcher stands, and takes it back; as deep as a tree is."""
        for node in children.get(at, ()):
            if self._matcher.is_stopped() or self._matcher.validate_tokens([tokens[node]]) == 0:
                continue
            self._matcher.consume_token(tokens[node])
            if not self._matcher.is_stopped():
                masks[node + 1] = self._mask()
                self._walk(node, tokens, children, masks)
            self._matcher.rollback(1)

    def _mask(self) -> bytes:
        return self._matcher.compute_bitmask()[: self._num_bytes]
