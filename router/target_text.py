"""The target's text side: tokenizer and chat template, read from the files that the verifier sent along."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.errors import InvalidArgument, TokenizerError, shown
from engine.text.chat import ChatTemplate
from engine.text.tokenizer import Tokenizer
from router.json_answer import Grammars

__all__ = ["TargetText"]

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_FILE_NAME = re.compile(rf"{_PART}(/{_PART})?")  # further chat templates lie in a folder of their own


class TargetText:
    """See the module. Chat is refused with the reason where the model has no template."""

    def __init__(self, tokenizer: Tokenizer, grammars: Grammars, chat: ChatTemplate | None, no_chat: str = "") -> None:
        self.tokenizer, self.grammars, self._chat, self._no_chat = tokenizer, grammars, chat, no_chat

    @staticmethod
    def load(files: Mapping[str, bytes], *, vocab_size: int, end_tokens: Sequence[int]) -> TargetText:
        """From file names and contents, as they lie in a checkpoint folder."""
        with tempfile.TemporaryDirectory(prefix="specfleet-") as name:
            folder = Path(name)
            for file, content in files.items():
                if not _FILE_NAME.fullmatch(file):
                    raise InvalidArgument(f"a tokenizer file is called {shown(file)}; names are plain file names")
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(content)
            tokenizer = Tokenizer.load(folder)
            grammars = Grammars(folder / "tokenizer.json", vocab_size=vocab_size, end_tokens=end_tokens)
            try:
                return TargetText(tokenizer, grammars, ChatTemplate.load(folder, tokenizer))
            except TokenizerError as error:
                return TargetText(tokenizer, grammars, None, str(error))

    def encode(self, text: str) -> list[int]:
        """A prompt as it stands. Control tokens spelled out in it are mere text."""
        return self.tokenizer.encode(text, allow_control_tokens=False)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Messages as the model's template has them."""
        if self._chat is None:
            raise InvalidArgument(f"this model cannot chat: {self._no_chat}; use a plain prompt")
        return self._chat.encode(messages)
