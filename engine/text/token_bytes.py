"""The bytes that each token stands for: what the `decoder` section of a tokenizer says, token by token.

The library decodes whole lists of ids. A stream needs the same text in pieces, and pieces can be exact only in bytes,
for one character's bytes may be spread over several tokens.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import tokenizers

from contracts.errors import TokenizerError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

# With byte fallback the library shows one U+FFFD for each byte that is no UTF-8, not one for each broken sequence.
ONE_MARK_PER_BYTE = "specfleet_one_mark_per_byte"
codecs.register_error(ONE_MARK_PER_BYTE, lambda error: ("\ufffd" * (_end(error) - _start(error)), _end(error)))


class TokenBytes:
    """Maps token ids to bytes, and knows what is left out at the very beginning of a text."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._known: dict[int, bytes] = {}
        self._is_byte_level = False
        self._has_byte_pieces = False
        self._replacements: list[tuple[str, str]] = []
        self._mark_dropped_at_start = ""  # removed from the very first token
        self.dropped_at_start = ("", 0)  # a character, and how many of it are removed from the very first text
        is_fused = False
        for step in _steps(backend):
            kind = step["type"]
            if kind == "ByteLevel":
                self._is_byte_level = True
            elif kind == "ByteFallback":
                self._has_byte_pieces = True
            elif kind == "Fuse":
                is_fused = True
            elif kind == "Replace" and "String" in step["pattern"] and not is_fused:
                self._replacements.append((step["pattern"]["String"], step["content"]))
            elif kind == "Metaspace":
                self._replacements.append((step["replacement"], " "))
                if step["prepend_scheme"] != "never":
                    self._mark_dropped_at_start = step["replacement"]
            elif kind == "Strip" and is_fused and step["stop"] == 0:
                self.dropped_at_start = (step["content"], step["start"])
            else:
                raise _unsupported(json.dumps(step))
        if not self._is_byte_level and not self._replacements:
            raise _unsupported("no way to write spaces")

    @property
    def errors(self) -> str:
        """How bytes that are not UTF-8 are shown, as an error handler of `codecs`."""
        return ONE_MARK_PER_BYTE if self._has_byte_pieces else "replace"

    def of(self, token_id: int, *, is_first: bool = False) -> bytes:
        """The token's bytes; `is_first` if no token at all comes before it. Empty if the id stands for nothing."""
        if is_first and self._mark_dropped_at_start:
            token = self._backend.id_to_token(token_id) or ""
            return self._convert(token.replace(self._mark_dropped_at_start, ""))
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._convert(self._backend.id_to_token(token_id) or "")
        return found

    def _convert(self, token: str) -> bytes:
        if self._is_byte_level:
            try:
                return bytes(map(_BYTE_OF.__getitem__, token))
            except KeyError:  # an added token, spelled in plain characters
                return token.encode()
        byte_piece = _BYTE_PIECE.fullmatch(token) if self._has_byte_pieces else None
        if byte_piece:
            return bytes([int(byte_piece[1], 16)])
        for mark, text in self._replacements:
            token = token.replace(mark, text)
        return token.encode()


def _steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if backend.decoder is None:
        raise _unsupported("none")
    decoder = json.loads(backend.decoder.__getstate__())
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return steps


def _unsupported(found: str) -> TokenizerError:
    return TokenizerError(
        f"the tokenizer's decoder is not supported ({found}); supported are ByteLevel, and Metaspace or Replace with "
        "ByteFallback, Fuse and Strip, as Llama, Mistral and Qwen models have them"
    )


def _byte_symbols() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary.

    Printable Latin-1 stands for itself; the other bytes, in order, take the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_symbols()


def _start(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError), "the handler is registered for decoding only"
    return error.start


def _end(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError), "the handler is registered for decoding only"
    return error.end
