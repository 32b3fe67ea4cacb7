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
_USUAL_CHARACTERS = 4  # of a token
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

    def encode(self, text: str, *, most: int | None = None) -> list[int]:
        """A prompt as it stands. Control tokens spelled out in it are mere text. `most`: more tokens are of no use."""
        if most is not None:
            self._check_length(text, most)
        return self.tokenizer.encode(text, allow_control_tokens=False)

    def encode_chat(self, messages: Sequence[Mapping[str, str]], *, most: int | None = None) -> list[int]:
        """Messages as the model's template has them."""
        if self._chat is None:
            raise InvalidArgument(f"this model cannot chat: {self._no_chat}; use a plain prompt")
        if most is not None:
            self._check_length("".join(message["content"] for message in messages), most)
        return self._chat.encode(messages)

    def _check_length(self, text: str, most: int) -> None:
        """Refuses a text that is much too long, at about the price of encoding one that fits: encoding a few megabytes
        takes many seconds. A beginning can have a few more tokens than it has as a part of the text, but not twice as
        many.
        """
        size = _USUAL_CHARACTERS * most
        while size < len(text):
            num_tokens = len(self.encode(text[:size]))
            if num_tokens > 2 * most:
                raise InvalidArgument(
                    f"the prompt has {len(text)} characters, and {num_tokens} tokens in the first {size} of them; it "
                    f"may have {most} tokens, so shorten the prompt"
                )
            size *= 4
