"""Rows are cut by the domains' shares, every part of a domain once before any twice, and a resumed sampler goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from contracts.errors import CheckpointError, InvalidArgument
from models.batches import RowSampler, validation_batch
from models.chat import ANSWER_WEIGHT, BOS, END, PROMPT_WEIGHT, Document, Message
from models.tokens import array_path, encode_document, encode_split, load_tokens, save_array

LENGTH = 16
SHARES = {"a": 1.0, "b": 3.0}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Two domains of counted tokens, in documents of twenty."""
    for domain, first, num_tokens in (("a", 0, 400), ("b", 1000, 800)):
        save_array(
            array_path(tmp_path, domain, "train", "tokens"), np.arange(first, first + num_tokens, dtype=np.uint16)
        )
        save_array(array_path(tmp_path, domain, "train", "weights"), np.full(num_tokens, 50, dtype=np.uint8))
        save_array(array_path(tmp_path, domain, "train", "starts"), np.arange(0, num_tokens, 20, dtype=np.int64))
    return tmp_path


def test_shares_are_exact(tokens: Path) -> None:
    sampler = RowSampler(tokens, SHARES, length=LENGTH, seed=1)
    domains = [int(row[0] >= 1000) for row in sampler.batch(40).tokens]
    assert sum(domains) == 30
    assert all(sum(domains[start : start + 4]) == 3 for start in range(0, 40, 4)), "and at every moment"


def test_targets_are_the_next_tokens(tokens: Path) -> None:
    batch = RowSampler(tokens, SHARES, length=LENGTH, seed=1).batch(8)
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (8, LENGTH)
    assert torch.equal(batch.tokens + 1, batch.targets)
    assert torch.equal(batch.weights, torch.full((8, LENGTH), 0.5))


def test_an_epoch_sees_nearly_everything_once(tokens: Path) -> None:
    sampler = RowSampler(tokens, {"b": 1.0}, length=LENGTH, seed=1)
    num_rows = 800 // LENGTH
    seen = sampler.batch(num_rows).tokens
    # Rows move to starts of documents, so a few tokens come twice or not at all.
    assert len(set(seen.flatten().tolist())) > 0.75 * 800
    again = sampler.batch(num_rows).tokens
    assert not torch.equal(seen, again), "another epoch has another order"


def test_a_resumed_sampler_goes_on(tokens: Path) -> None:
    straight = RowSampler(tokens, SHARES, length=LENGTH, seed=1)
    straight.batch(37)
    expected = straight.batch(90)
    first = RowSampler(tokens, SHARES, length=LENGTH, seed=1)
    first.batch(37)
    second = RowSampler(tokens, SHARES, length=LENGTH, seed=1)
    second.load_state(first.state())
    assert torch.equal(second.batch(90).tokens, expected.tokens)


def test_what_cannot_be_sampled_is_refused(tokens: Path) -> None:
    with pytest.raises(InvalidArgument, match="domains a, b hold fewer than 1002 tokens"):
        RowSampler(tokens, SHARES, length=1000, seed=1)
    with pytest.raises(InvalidArgument, match="greater than 0"):
        RowSampler(tokens, {"a": 0.0}, length=LENGTH, seed=1)
    with pytest.raises(CheckpointError, match="resume with the same domains"):
        RowSampler(tokens, SHARES, length=LENGTH, seed=1).load_state({"a": 3})
    array_path(tokens, "a", "train", "weights").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"a\.train\.weights\.npy is no token file"):
        RowSampler(tokens, SHARES, length=LENGTH, seed=1)


def test_answers_weigh_more_than_prompts(tokenizer: Tokenizer) -> None:
    messages = (Message(role="user", content="say red"), Message(role="assistant", content="red and small"))
    ids, weights = encode_document(tokenizer, Document(messages=messages))
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert text == f"{BOS}<|user|>say red{END}<|assistant|>red and small{END}"
    answer = tokenizer.encode(f"red and small{END}", add_special_tokens=False).ids
    assert ids[-len(answer) :].tolist() == answer
    assert set(weights[-len(answer) :].tolist()) == {ANSWER_WEIGHT}
    assert set(weights[: -len(answer)].tolist()) == {0, PROMPT_WEIGHT}


def test_validation_rows_stay_the_same(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    encode_split(corpus, tokenizer, "sql", "valid", tmp_path, seed=0)
    first, again = (validation_batch(tmp_path, "sql", length=LENGTH, num_rows=3) for _ in range(2))
    assert torch.equal(first.tokens, again.tokens)
    assert load_tokens(tmp_path, "sql", "valid").num_tokens > LENGTH
