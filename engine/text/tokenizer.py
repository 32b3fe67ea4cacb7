"""Text to token ids and back, over the `tokenizers` library, with control tokens under the caller's control."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from contracts.errors import CheckpointError, InvalidArgument, TokenizerError
from engine.json_fields import Fields, read_json_object, shown
from engine.text.guarded_encoder import GuardedEncoder, Segment
from engine.text.token_bytes import TokenBytes

# Special tokens that templates refer to by role.
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_OTHER_FORMATS = (
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tiktoken.model",
    "spiece.model",
    "tekken.json",
)


class Tokenizer:
    """One model's `tokenizer.json`. Immutable once loaded, and safe to share between threads."""

    def __init__(self, backend: tokenizers.Tokenizer, role_tokens: Mapping[str, str] | None = None) -> None:
        # Settings left over from training would shorten, pad or randomise prompts without a word.
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        self.role_tokens = dict(role_tokens or {})
        added = backend.get_added_tokens_decoder()
        known = {token.content for token in added.values()}
        # Named but not listed: without this, `</s>` in a template would be read as five characters.
        backend.add_special_tokens([token for token in dict.fromkeys(self.role_tokens.values()) if token not in known])
        self._backend = backend
        self.bos_token_id = self._role_id("bos_token")
        self.eos_token_id = self._role_id("eos_token")
        self.pad_token_id = self._role_id("pad_token")
        role_ids = {token_id for token_id in map(self._role_id, self.role_tokens) if token_id is not None}
        self.special_ids = frozenset(role_ids | {token_id for token_id, token in added.items() if token.special})

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Read `tokenizer.json`, and the names of the special tokens from `tokenizer_config.json`."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            present = ", ".join(name for name in _OTHER_FORMATS if (folder / name).is_file())
            raise TokenizerError(
                f"{folder} has no tokenizer.json, only {present or 'other files'}; write one by loading the tokenizer "
                "with transformers (AutoTokenizer) and calling save_pretrained"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for whatever is wrong with the file
            raise TokenizerError(f"{path} is not a readable tokenizer: {error}") from error
        return Tokenizer(backend, _read_role_tokens(folder, backend))

    @property
    def num_real_tokens(self) -> int:
        """One more than the highest id that stands for something. Above it a padded model vocabulary is empty."""
        return self.vocab_size

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens as a text spells them, by id."""
        decoder = self._backend.get_added_tokens_decoder()
        return tuple(decoder[token_id].content for token_id in sorted(self.special_ids) if token_id in decoder)

    @cached_property
    def vocab_size(self) -> int:
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what decides which ids a text has; file formatting and what only decorates text do not count."""
        content = json.loads(self._backend.to_str())
        parts = {key: content[key] for key in ("model", "normalizer", "pre_tokenizer")}
        parts["added_tokens"] = sorted(content["added_tokens"], key=lambda token: int(token["id"]))
        canonical = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def check_matches(self, model_vocab_size: int) -> None:
        """Refuse a model whose embedding table is too small for these ids; a larger one is padded, which is usual."""
        if self.vocab_size > model_vocab_size:
            token = self.token(self.vocab_size - 1)
            raise CheckpointError(
                f"the tokenizer has ids up to {self.vocab_size - 1} ({shown(token)}), but the model's vocab_size is "
                f"{model_vocab_size}; the tokenizer must be the one the model was trained with"
            )

    def encode(self, text: str, *, add_special_tokens: bool = True, allow_control_tokens: bool = True) -> list[int]:
        """Ids of a text; `add_special_tokens` adds what the model expects around a text, such as a BOS.

        With `allow_control_tokens` false, a control token spelled out in the text becomes ordinary characters.
        """
        if not allow_control_tokens:
            return self.encode_segments([Segment(text=text, trusted=False)], add_special_tokens=add_special_tokens)
        _check_unicode(text)
        return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_segments(self, segments: Sequence[Segment], *, add_special_tokens: bool = False) -> list[int]:
        """Ids of the joined texts, where control tokens count only if they lie wholly in one trusted segment.

        Apart from that, the result is that of encoding the joined text: segment borders leave no trace.
        """
        if self._normalises_control_tokens or not all(segment.trusted for segment in segments):
            _check_unicode("".join(segment.text for segment in segments))
            return self._guarded.encode(segments, add_special_tokens=add_special_tokens)
        return self.encode("".join(segment.text for segment in segments), add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 show as U+FFFD, ids that stand for nothing as nothing."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it, or None if the id stands for nothing."""
        return self._backend.id_to_token(token_id)

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_ids

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """What each id contributes to a text; shared by all detokenizers of this tokenizer."""
        return TokenBytes(self._backend)

    def _role_id(self, role: str) -> int | None:
        token = self.role_tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)

    @cached_property
    def _normalises_control_tokens(self) -> bool:
        """Whether another spelling of a control token, such as one in full-width letters, can count as the token.

        Who looks for control tokens in a text before it is encoded sees the exact spelling only.
        """
        added = self._backend.get_added_tokens_decoder()
        return self._backend.normalizer is not None and any(
            token.normalized for token_id, token in added.items() if token_id in self.special_ids
        )

    @cached_property
    def _guarded(self) -> GuardedEncoder:
        return GuardedEncoder(self._backend, self.special_ids)


def _check_unicode(text: str) -> None:
    """Lone surrogates are the one thing a Python string can hold that no tokenizer can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the text holds {shown(text[error.start])} at index {error.start}, half of a surrogate pair; "
            "it must be valid Unicode"
        ) from None


def _read_role_tokens(folder: Path, backend: tokenizers.Tokenizer) -> dict[str, str]:
    """Which token plays which role: `tokenizer_config.json` says it, `config.json` (by id) where it is silent."""
    roles: dict[str, str] = {}
    settings_path = folder / "tokenizer_config.json"
    settings = read_json_object(settings_path) if settings_path.is_file() else {}
    for role in _ROLES:
        value = settings.get(role)
        content = value.get("content") if isinstance(value, dict) else value
        if content is None:
            continue
        if not isinstance(content, str):
            raise TokenizerError(f"{settings_path}: {role} is {shown(value)}; it must be a token or an object with one")
        if backend.token_to_id(content) is None:
            if role in ("bos_token", "eos_token"):
                raise TokenizerError(f"{settings_path}: {role} is {shown(content)}, which tokenizer.json does not know")
            continue  # files often name roles that the model has no token for, such as a mask
        roles[role] = content
    config_path = folder / "config.json"
    config = Fields(read_json_object(config_path) if config_path.is_file() else {}, str(config_path))
    for role in ("bos_token", "eos_token", "pad_token"):
        ids = config.token_ids(f"{role}_id")
        token = backend.id_to_token(ids[0]) if ids else None
        if role not in roles and token is not None:
            roles[role] = token
    return roles
