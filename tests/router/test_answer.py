"""What a reader is shown: every token once, text that never breaks a character or shows a stop string, and the end."""

from __future__ import annotations

import asyncio
import random

import pytest

from contracts.types import DrafterId, StopParams
from engine.text.tokenizer import Tokenizer
from router.answer import Answer, AnsweredToken, Reason
from tests.engine.checkpoints import write_checkpoint

END = 0
TEXT = "The cat — même le chat — sat on the mat; 日本 too. Then it went home."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_checkpoint(tmp_path_factory.mktemp("answer") / "model", "llama"))


def answer_of(tokenizer: Tokenizer, stop: StopParams) -> Answer:
    return Answer(tokenizer, tokenizer.encode("Say: "), stop, end_tokens=frozenset({END}))


def say(answer: Answer, tokens: list[int], rng: random.Random) -> None:
    """In pieces of any size, as rounds bring them."""
    while tokens and answer.ended is None:
        piece, tokens = tokens[: (size := rng.randint(1, 5))], tokens[size:]
        answer.take(piece, [None] * len(piece), ())


def text_of(answer: Answer) -> str:
    return "".join(token.text for token in answer.tokens) + (answer.ended.text if answer.ended is not None else "")


@pytest.mark.parametrize("seed", range(5))
def test_the_pieces_make_the_text_and_stop_strings_end_it(tokenizer: Tokenizer, seed: int) -> None:
    tokens = tokenizer.encode(TEXT, add_special_tokens=False)
    rng = random.Random(seed)
    whole = answer_of(tokenizer, StopParams(max_tokens=len(tokens)))
    say(whole, tokens, rng)
    assert text_of(whole) == TEXT
    assert whole.ended is not None
    assert whole.ended.reason is Reason.LENGTH
    stopped = answer_of(tokenizer, StopParams(max_tokens=len(tokens), stop=("mat;", "never")))
    say(stopped, tokens, rng)
    assert text_of(stopped) == TEXT.partition("mat;")[0]
    assert stopped.ended is not None
    assert (stopped.ended.reason, stopped.ended.stop) == (Reason.STOP, "mat;")


def test_nothing_is_taken_after_the_end(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, StopParams(max_tokens=10, stop_token_ids=(7,)))
    assert answer.take([5, 7, 9], [None, DrafterId("d"), None], ())
    assert [token.token for token in answer.tokens] == [5, 7]
    assert answer.tokens[1].drafter == "d"
    ignoring = answer_of(tokenizer, StopParams(max_tokens=10, ignore_eos=True))
    assert not ignoring.take([5, END, 9], [None] * 3, ())


def test_readers_see_every_token_once_from_wherever_they_begin(tokenizer: Tokenizer) -> None:
    async def read(answer: Answer, first: int) -> list[AnsweredToken]:
        return [token async for tokens in answer.read(first) for token in tokens]

    async def scene() -> None:
        answer = answer_of(tokenizer, StopParams(max_tokens=20))
        early = [asyncio.create_task(read(answer, first)) for first in (0, 3, 12)]
        for token in range(1, 21):
            answer.take([token], [None], ())
            if token % 3 == 0:
                await asyncio.sleep(0)
        late = await read(answer, 5)
        assert [token.token for token in late] == list(range(6, 21))
        for task, first in zip(early, (0, 3, 12), strict=True):
            assert [token.token for token in await task] == list(range(first + 1, 21))
        assert answer.num_readers == 0

    asyncio.run(scene())


def test_an_end_from_outside_keeps_what_was_said(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, StopParams(max_tokens=20, stop=("cat",)))
    say(answer, tokenizer.encode("the ca", add_special_tokens=False), random.Random(1))
    answer.end(Reason.CANCELLED)
    answer.end(Reason.DEADLINE)
    assert answer.ended is not None
    assert answer.ended.reason is Reason.CANCELLED
    assert text_of(answer) == "the ca"
