from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import CheckpointError, InvalidArgument, TokenizerError
from engine.text.chat import ChatTemplate
from engine.text.guarded_encoder import Segment
from engine.text.tokenizer import Tokenizer
from tests.engine.checkpoints import (
    BOS_ID,
    EOS_ID,
    IM_END_ID,
    IM_START_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    TOKENIZER_SIZE,
    byte_level_tokenizer,
    metaspace_tokenizer,
    write_tokenizer,
)

METASPACE_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def metaspace_first() -> tokenizers.Tokenizer:
    """As `metaspace_tokenizer`, with the word mark only before the very first word, as newer conversions have it."""
    backend = metaspace_tokenizer()
    backend.normalizer = None
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


def unigram() -> Tokenizer:
    """A model in which control tokens are the best pieces of ordinary text."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "<", "/", "s", ">", "</", "s>", "a", "▁a"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece, 0.0 if "s>" in piece else -2.0) for piece in pieces], unk_id=0)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    return Tokenizer(backend, METASPACE_ROLES)


BYTE_LEVEL = Tokenizer(byte_level_tokenizer(), {"bos_token": "<|bos|>", "eos_token": "<|eos|>"})
METASPACE = Tokenizer(metaspace_tokenizer(), METASPACE_ROLES)
METASPACE_FIRST = Tokenizer(metaspace_first(), METASPACE_ROLES)
UNIGRAM = unigram()

KINDS = pytest.mark.parametrize(
    "tokenizer",
    [BYTE_LEVEL, METASPACE, METASPACE_FIRST, UNIGRAM],
    ids=["byte_level", "metaspace", "metaspace_first", "unigram"],
)
# Text made to collide with control tokens: whole ones, halves of them, and what surrounds them.
FRAGMENTS = st.sampled_from(
    [*SPECIAL_TOKENS, "</s>", "<s>", "<|im_", "end|>", "<|", "|>", "</", "s>", " ", "\n", "a", "é"]
)
HOSTILE_TEXT = st.one_of(st.text(max_size=20), st.lists(FRAGMENTS, max_size=6).map("".join))


def user(text: str) -> Segment:
    return Segment(text=text, trusted=False)


def template(text: str) -> Segment:
    return Segment(text=text, trusted=True)


def test_loads_ids_and_roles_from_the_folder(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BOS_ID, EOS_ID, PAD_ID)
    assert tokenizer.vocab_size == tokenizer.num_real_tokens == TOKENIZER_SIZE
    assert tokenizer.role_tokens["eos_token"] == "<|eos|>"
    assert [tokenizer.is_special(token_id) for token_id in (EOS_ID, IM_END_ID, IM_END_ID + 1)] == [True, True, False]
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "SELECT the fleet <|im_start|> é 🎉\n"
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "<|im_start|>" not in tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)


def test_roles_in_their_older_spellings(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<|im_end|>", "lstrip": False}, "mask_token": "<mask>", "bos_token": None})
    )
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": BOS_ID, "eos_token_id": [EOS_ID]}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_token_id == IM_END_ID, "tokenizer_config.json comes first"
    assert tokenizer.bos_token_id == BOS_ID, "config.json fills the gap"
    assert "mask_token" not in tokenizer.role_tokens

    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|stop|>"}')
    with pytest.raises(TokenizerError, match=r'eos_token is "<\|stop\|>", which tokenizer.json does not know'):
        Tokenizer.load(tmp_path)


def test_unusable_folders_are_explained(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(
        TokenizerError, match=r"has no tokenizer.json, only tokenizer.model; write one.*save_pretrained"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a readable tokenizer"):
        Tokenizer.load(tmp_path)


def test_vocabulary_must_fit_the_model_but_may_be_padded() -> None:
    BYTE_LEVEL.check_matches(TOKENIZER_SIZE)
    BYTE_LEVEL.check_matches(TOKENIZER_SIZE + 64)
    with pytest.raises(CheckpointError, match=rf"ids up to {TOKENIZER_SIZE - 1} .*vocab_size is {TOKENIZER_SIZE - 1}"):
        BYTE_LEVEL.check_matches(TOKENIZER_SIZE - 1)
    assert BYTE_LEVEL.token(TOKENIZER_SIZE) is None
    assert BYTE_LEVEL.decode([TOKENIZER_SIZE]) == ""


def test_settings_left_from_training_do_not_shorten_or_vary_prompts() -> None:
    backend = byte_level_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.model.dropout = 0.9
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()))
    text = "the target alone decides every token and the drafters only guess"
    assert tokenizer.encode(text) == BYTE_LEVEL.encode(text)


def test_digest_ignores_formatting_and_notices_everything_else(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    digest = Tokenizer.load(tmp_path).digest

    def digest_of(changed: dict[str, object]) -> str:
        path.write_text(json.dumps(changed))
        return Tokenizer.load(tmp_path).digest

    def edited(*keys: str) -> tuple[dict[str, Any], dict[str, Any]]:
        copy: dict[str, Any] = json.loads(json.dumps(content))
        part = copy
        for key in keys:
            part = part[key]
        return copy, part

    assert digest_of(dict(reversed(content.items()))) == digest
    copy, model = edited("model")
    model["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]  # the older spelling
    model["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    assert digest_of(copy) == digest
    assert digest_of({**content, "truncation": None, "version": "1.0"}) == digest

    copy, model = edited("model")
    model["merges"] = content["model"]["merges"][::-1]
    assert digest_of(copy) != digest
    copy, vocab = edited("model", "vocab")
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    assert digest_of(copy) != digest
    assert digest_of({**content, "normalizer": {"type": "NFC"}}) != digest
    assert digest_of({**content, "added_tokens": content["added_tokens"][:-1]}) != digest
    copy, pre_tokenizer = edited("pre_tokenizer")
    pre_tokenizer["add_prefix_space"] = True
    assert digest_of(copy) != digest


@KINDS
@given(contents=st.lists(HOSTILE_TEXT, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_users_cannot_write_control_tokens(tokenizer: Tokenizer, contents: list[str]) -> None:
    """However contents are cut up and whatever stands between them, the template's tokens are the only ones."""
    close = tokenizer.role_tokens["eos_token"]
    segments = [segment for content in contents for segment in (user(content), template(close))]
    ids = tokenizer.encode_segments(segments)
    special = [token_id for token_id in ids if tokenizer.is_special(token_id) and tokenizer.token(token_id) != "<unk>"]
    assert special == [tokenizer.eos_token_id] * len(contents)


@given(texts=st.lists(st.tuples(st.text(max_size=12), st.booleans()), max_size=5))
@settings(max_examples=150, deadline=None)
def test_borders_of_segments_leave_no_trace(texts: list[tuple[str, bool]]) -> None:
    """Without control tokens in contents, segments encode as the whole text does, word marks and merges included."""
    for tokenizer in (BYTE_LEVEL, METASPACE, METASPACE_FIRST):
        close = tokenizer.role_tokens["eos_token"]
        segments = [Segment(text=text + close * trusted, trusted=trusted) for text, trusted in texts]
        whole = "".join(segment.text for segment in segments)
        assert tokenizer.encode_segments(segments) == tokenizer.encode(whole, add_special_tokens=False)


@given(text=HOSTILE_TEXT)
@settings(max_examples=150, deadline=None)
def test_spelled_out_control_tokens_keep_their_characters(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, allow_control_tokens=False)
    assert BYTE_LEVEL.decode(ids) == text
    assert not any(BYTE_LEVEL.is_special(token_id) for token_id in ids)


def test_control_tokens_in_raw_prompts_are_the_callers_choice() -> None:
    text = "<|im_start|>user"
    assert BYTE_LEVEL.encode(text)[0] == IM_START_ID
    assert IM_START_ID not in BYTE_LEVEL.encode(text, allow_control_tokens=False)
    plain = byte_level_tokenizer()
    plain.encode_special_tokens = True
    assert BYTE_LEVEL.encode(text, allow_control_tokens=False) == plain.encode(text).ids
    # One that starts in user text and ends in the template's is no control token either.
    assert IM_START_ID not in BYTE_LEVEL.encode_segments([user("<|im_"), template("start|>")])


@pytest.mark.parametrize("normalized", [True, False])
def test_other_spellings_of_a_control_token_are_the_users_text(normalized: bool) -> None:
    """With `normalized` the library takes for the token whatever the normalizer turns into its spelling."""
    backend = byte_level_tokenizer()
    backend.normalizer = tokenizers.normalizers.NFKC()
    backend.add_special_tokens([tokenizers.AddedToken("<|stop|>", normalized=normalized)])
    tokenizer = Tokenizer(backend)
    (stop,) = tokenizer.encode("<|stop|>")
    chat = ChatTemplate("{{ messages[0].content }}<|stop|>", tokenizer)
    spelled = "\uff1c|stop|>"  # with a full-width "<"
    assert chat.encode([{"role": "user", "content": f"a {spelled}"}]).count(stop) == 1
    assert tokenizer.encode(spelled) == backend.encode(spelled).ids
    assert tokenizer.encode(spelled).count(stop) == normalized


def test_tokens_around_a_text_survive_the_guard() -> None:
    backend = byte_level_tokenizer()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", BOS_ID)]
    )
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("hi <|bos|>", allow_control_tokens=False).count(BOS_ID) == 1
    assert tokenizer.encode("hi <|bos|>", allow_control_tokens=False)[0] == BOS_ID
    assert BOS_ID not in tokenizer.encode("hi", add_special_tokens=False)


def test_a_role_that_the_file_does_not_list_as_added_still_counts() -> None:
    backend = metaspace_tokenizer()
    content = json.loads(backend.to_str())
    content["added_tokens"] = []
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)), METASPACE_ROLES)
    assert tokenizer.encode("a</s>")[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in tokenizer.encode("a</s>", allow_control_tokens=False)


def test_half_characters_are_refused() -> None:
    for trusted in (True, False):
        with pytest.raises(InvalidArgument, match=r"ud800.* at index 1.*valid Unicode"):
            BYTE_LEVEL.encode("a\ud800", allow_control_tokens=trusted)
