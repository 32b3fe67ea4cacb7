from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument, TokenizerError
from engine.text.detokenize import IncrementalDetokenizer, detokenize
from engine.text.stop_strings import StopStringMatcher
from engine.text.token_bytes import ONE_MARK_PER_BYTE
from engine.text.tokenizer import Tokenizer
from tests.engine.checkpoints import BOS_ID, EOS_ID, byte_level_tokenizer, metaspace_tokenizer

METASPACE_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def metaspace_decoder() -> tokenizers.Tokenizer:
    """Metaspace in the decoder as well, which takes the leading space away from the first token."""
    backend = metaspace_tokenizer()
    backend.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Metaspace(), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    return backend


def with_spelled_out_tokens() -> tokenizers.Tokenizer:
    backend = byte_level_tokenizer()
    backend.add_tokens(["<think>", "日本", "é "])
    return backend


BYTE_LEVEL = Tokenizer(byte_level_tokenizer(), {"bos_token": "<|bos|>"})
SPELLED_OUT = Tokenizer(with_spelled_out_tokens(), {"bos_token": "<|bos|>"})
METASPACE = Tokenizer(metaspace_tokenizer(), METASPACE_ROLES)
METASPACE_DECODER = Tokenizer(metaspace_decoder(), METASPACE_ROLES)
ALL = {
    "byte_level": BYTE_LEVEL,
    "spelled_out": SPELLED_OUT,
    "metaspace": METASPACE,
    "metaspace_decoder": METASPACE_DECODER,
}
KINDS = pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL.keys())

# Characters of one to four bytes, joined emoji, combining marks, and what the vocabularies treat specially.
TEXT = st.one_of(
    st.text(max_size=25),
    st.lists(
        st.sampled_from(["é", "e\u0301", "👩\u200d🚀", "🎉", "日本", "\ufffd", " ", "  ", "\n", "a", "▁"]), max_size=12
    ).map("".join),
)
IDS = st.lists(st.integers(min_value=0, max_value=330), max_size=30)


def pieces(tokenizer: Tokenizer, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids)
    return [*map(detokenizer.push, token_ids), detokenizer.finish()]


@KINDS
@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_joined_pieces_are_the_whole_and_never_broken(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    found = pieces(tokenizer, [], ids)
    assert "".join(found) == expected
    assert "".join(found).count("\ufffd") == text.count("\ufffd"), "a mark that the text does not hold"


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SPELLED_OUT], ids=["byte_level", "spelled_out"])
@given(ids=IDS)
@settings(max_examples=400, deadline=None)
def test_any_ids_give_what_the_library_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Random ids are mostly invalid UTF-8, with special tokens and ids that stand for nothing in between."""
    assert "".join(pieces(tokenizer, [], ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    return next(index for index in range(tokenizer.vocab_size) if tokenizer.token(index) == token)


def bytes_of(tokenizer: Tokenizer, content: bytes) -> list[int]:
    return [token_id(tokenizer, f"<0x{byte:02X}>") for byte in content]


RUNS = st.lists(st.one_of(TEXT.filter(bool).map(str.encode), st.binary(min_size=1, max_size=4)), max_size=6)


@pytest.mark.parametrize("tokenizer", [METASPACE, METASPACE_DECODER], ids=["metaspace", "metaspace_decoder"])
@given(runs=RUNS, is_cut=st.booleans())
@settings(max_examples=300, deadline=None)
def test_byte_pieces_give_what_the_library_gives(tokenizer: Tokenizer, runs: list[bytes], is_cut: bool) -> None:
    """Runs of bytes between letters; where one is partly valid, the library drops the valid part and we do not."""
    letter = token_id(tokenizer, "a")
    ids = [index for run in runs for index in [letter, *bytes_of(tokenizer, run)]] + [letter] * is_cut
    found = "".join(pieces(tokenizer, [], ids))
    assert found == "".join("a" + run.decode(errors=ONE_MARK_PER_BYTE) for run in runs) + "a" * is_cut
    if all("\ufffd" not in text or set(text) == {"\ufffd"} for text in found.split("a")):
        assert found == tokenizer.decode(ids, skip_special_tokens=True)


@KINDS
@given(text=TEXT, cut=st.integers(min_value=0, max_value=60))
@settings(max_examples=200, deadline=None)
def test_text_goes_on_behind_the_prompt(tokenizer: Tokenizer, text: str, cut: int) -> None:
    """Wherever the prompt ends, be it within a character, the pieces continue what the prompt decodes to."""
    ids = tokenizer.encode(text)
    prompt, rest = ids[:cut], ids[cut:]
    shown = "".join(pieces(tokenizer, [], prompt)[:-1])  # without finish: what a complete prompt settles
    assert shown + "".join(pieces(tokenizer, prompt, rest)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_leading_space_belongs_to_the_first_word_of_a_text_only() -> None:
    ids = METASPACE.encode("the other")
    assert "".join(pieces(METASPACE, [], ids)) == "the other"
    assert "".join(pieces(METASPACE, METASPACE.encode("a"), ids)) == " the other"
    assert "".join(pieces(METASPACE, METASPACE.encode("a" * 200), ids)) == " the other"
    bos = METASPACE.bos_token_id
    assert bos is not None
    assert "".join(pieces(METASPACE, [bos], ids)) == "the other", "a skipped token is no text"


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE], ids=["byte_level", "metaspace"])
def test_characters_appear_whole_and_as_soon_as_they_are(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🎉é")
    assert len(ids) >= 6, "one token a byte"
    found = [piece for piece in pieces(tokenizer, tokenizer.encode("a"), ids) if piece not in ("", " ")]
    assert found == ["🎉", "é"]


def test_invalid_bytes_show_once_they_cannot_become_valid() -> None:
    lead, tail, letter = BYTE_LEVEL.encode("é")[0], BYTE_LEVEL.encode("é")[1], BYTE_LEVEL.encode("x")[0]
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, [])
    assert [detokenizer.push(lead), detokenizer.push(tail)] == ["", "é"]
    assert [detokenizer.push(tail), detokenizer.push(lead), detokenizer.push(letter)] == ["\ufffd", "", "\ufffdx"]
    assert [detokenizer.push(lead), detokenizer.finish()] == ["", "\ufffd"]


def test_special_tokens_are_shown_on_request() -> None:
    ids = [BOS_ID, *BYTE_LEVEL.encode("hi"), EOS_ID]
    assert detokenize(BYTE_LEVEL, [], ids) == "hi"
    assert detokenize(BYTE_LEVEL, [], ids, skip_special_tokens=False) == "<|bos|>hi<|eos|>"


def test_time_is_constant_a_token_even_for_bytes_that_never_become_valid() -> None:
    lead = BYTE_LEVEL.encode("é")[0]
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, [lead] * 200_000)
    started = time.perf_counter()
    text = "".join(detokenizer.push(lead) for _ in range(50_000))
    assert len(text) == 50_000
    assert time.perf_counter() - started < 2.0, "quadratic work would take minutes"


def test_unknown_decoders_are_refused() -> None:
    for decoder in (None, tokenizers.decoders.WordPiece(), tokenizers.decoders.Fuse()):
        backend = byte_level_tokenizer()
        backend.decoder = decoder
        with pytest.raises(TokenizerError, match=r"decoder is not supported.*supported are ByteLevel"):
            IncrementalDetokenizer(Tokenizer(backend), [])


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule in its plainest form: grow the text until it ends with a stop string."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


LETTERS = st.text(alphabet="ab", max_size=30)


@given(
    text=LETTERS,
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=6), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    include_stop=st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_stop_strings_are_found_whatever_the_pieces(
    text: str, stops: list[str], cuts: list[int], include_stop: bool
) -> None:
    expected, expected_stop = first_stop(text, stops)
    matcher = StopStringMatcher(stops, include_stop=include_stop)
    found, found_stop = "", None
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(borders):
        released, stop = matcher.push(text[start:end])
        assert found_stop is None or (released, stop) == ("", None)
        found, found_stop = found + released, found_stop or stop
        visible = text[:end]
        if found_stop is None:
            held = visible[len(found) :]
            assert visible.startswith(found)
            assert held == "" or any(stop.startswith(held) for stop in stops), "held back without need"
    found += matcher.finish()
    assert found_stop == expected_stop
    assert found == expected + (expected_stop or "" if include_stop else "")


def test_stop_strings_must_not_be_empty() -> None:
    with pytest.raises(InvalidArgument, match="at least one character"):
        StopStringMatcher(["a", ""])
