"""Encoding text in which some stretches, written by users, must not produce control tokens."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from contracts.errors import TokenizerError
from engine.json_fields import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A piece of a prompt. Only `trusted` text, which the operator wrote, may hold control tokens."""

    text: str
    trusted: bool


class GuardedEncoder:
    """A copy of a tokenizer that sees control tokens in trusted text only.

    The copy does not recognise control tokens, but knows each under an alias that nobody can guess. Trusted text is
    written with aliases, then everything is encoded in one go: so the result is what the tokenizer itself makes of
    the whole text, where word borders and leading spaces depend on what stands beside them. That a user cannot write
    a control token follows from not being able to write its alias, whatever the template does with the text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special_ids: frozenset[int]) -> None:
        content = json.loads(backend.to_str())
        special_tokens = [token for token in content["added_tokens"] if token["special"] or token["id"] in special_ids]
        for token in special_tokens:
            token["special"] = True
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(content))
        self._backend.encode_special_tokens = True
        # Characters outside the vocabulary rightly become the unknown token, so ordinary text may hold that one.
        self._control_token_ids = special_ids - {_unknown_id(content["model"], backend)}

        secret = secrets.token_hex(16)
        self._cut = f"\uf8ff{secret}:cut\uf8ff"
        self._alias_of = {token["content"]: f"\uf8ff{secret}:{token['id']}\uf8ff" for token in special_tokens}
        self._backend.add_tokens([_plain_token(self._cut)])
        for token in special_tokens:
            alias = self._alias_of[token["content"]]
            self._backend.add_tokens([_plain_token(alias, lstrip=token["lstrip"], rstrip=token["rstrip"])])
        self._cut_id = self._backend.token_to_id(self._cut)
        self._real_id = {
            self._backend.token_to_id(self._alias_of[token["content"]]): token["id"] for token in special_tokens
        }
        longest_first = sorted(self._alias_of, key=len, reverse=True)
        # A pattern of no alternatives would match everywhere; this one, nowhere.
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, segments: Sequence[Segment], *, add_special_tokens: bool) -> list[int]:
        text = "".join(self._with_aliases(segment.text) if segment.trusted else segment.text for segment in segments)
        while True:
            encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
            leaks = self._leaks(encoding)
            if not leaks:
                return [self._real_id.get(token_id, token_id) for token_id in encoding.ids if token_id != self._cut_id]
            text = self._with_cuts(text, leaks)

    def _with_aliases(self, text: str) -> str:
        return self._special_pattern.sub(lambda match: self._alias_of[match[0]], text)

    def _leaks(self, encoding: tokenizers.Encoding) -> list[tuple[int, int]]:
        """Where in the text the model itself made a control token. The mask marks those added around the text."""
        return [
            span
            for token_id, span, is_added in zip(
                encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True
            )
            if token_id in self._control_token_ids and not is_added
        ]

    def _with_cuts(self, text: str, leaks: list[tuple[int, int]]) -> str:
        """Some models hold control tokens among their ordinary pieces (unigram does): cut the text inside them.

        Repeating this ends, for each time the stretches that can still spell such a token are shorter.
        """
        for start, end in reversed(leaks):
            if end - start < 2:
                raise TokenizerError(
                    f"the text holds {shown(text[start:end])}, a control token that this tokenizer cannot write as "
                    "ordinary text; remove it"
                )
            middle = (start + end) // 2
            text = text[:middle] + self._cut + text[middle:]
        return text


def _plain_token(content: str, *, lstrip: bool = False, rstrip: bool = False) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(content, lstrip=lstrip, rstrip=rstrip, normalized=False, special=False)


def _unknown_id(model: dict[str, Any], backend: tokenizers.Tokenizer) -> int | None:
    unknown_id: int | None = model.get("unk_id")
    token = model.get("unk_token")
    return unknown_id if token is None else backend.token_to_id(token)
