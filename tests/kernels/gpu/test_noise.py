"""Shared noise and the choice it makes on a GPU, in the interpreter: bit for bit as kernels/noise.py defines them."""

from __future__ import annotations

import random

import pytest
import torch

from kernels.noise import Choice, choose, choose_reference, gumbel, log_sum, log_sum_reference, noise_reference
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import assert_close, normal, same_bits

INFINITY = float("inf")


def check_noise(seed: int, position: int, first: int, last: int) -> None:
    from kernels.gpu.noise import noise

    with interpreter():
        found = noise(seed, position, first, last, "cpu")
    assert same_bits(found, noise_reference(seed, position, first, last))


@pytest.mark.parametrize(
    ("seed", "position", "first", "last"),
    [(0, 0, 0, 2000), (2**64 - 1, 2**40 + 3, 5, 7), (2**63, 131_071, 151_934, 151_937)],
)
def test_the_bits_of_the_definition(seed: int, position: int, first: int, last: int) -> None:
    check_noise(seed, position, first, last)


def check_both_ends() -> None:
    """Words next to zero and to the largest, which no seed at hand draws: the tails of the distribution."""
    middle = [255, 2**24, 2**30, 2**31 - 1, 2**31, 3 * 2**30 - 1, 3 * 2**30]
    words = torch.tensor([0, 1, 2, 3, *middle, *range(2**32 - 5, 2**32)])
    with interpreter():
        from kernels.gpu.noise import gumbel_of_words

        found = gumbel_of_words(words)
    assert same_bits(found, gumbel(words))
    assert found.isfinite().all()


def test_the_bits_at_both_ends_of_the_generator() -> None:
    check_both_ends()


def check_choose(*, size: int, first_token: int, num_top: int) -> None:
    """Values and tokens of the reference, in every bit: ties, thresholds, masked tokens, no number at all."""
    logits = normal(6, size, seed=size)
    logits[1] = -INFINITY
    logits[2, :: max(size // 5, 1)] = -INFINITY
    logits[3] = 1.0
    logits[4, size // 2] = float("nan")
    rng = random.Random(size)
    choices = [
        Choice(
            seed=rng.getrandbits(64),
            position=rng.getrandbits(20),
            inverse_temperature=rng.choice([1.0, 0.7, 1 / 3]),
            noisy=index in (0, 2, 4),
            threshold=0.1 if index == 0 else -INFINITY,
        )
        for index in range(6)
    ]
    with interpreter():
        values, tokens = choose(logits, choices, num_top=num_top, first_token=first_token)
    expected_values, expected_tokens = choose_reference(logits, choices, num_top=num_top, first_token=first_token)
    assert torch.equal(tokens, expected_tokens)
    assert same_bits(values, expected_values)


@pytest.mark.parametrize(("size", "first_token", "num_top"), [(1, 0, 1), (7, 2, 3), (1030, 3, 4)])
def test_choices_are_those_of_the_reference(size: int, first_token: int, num_top: int) -> None:
    check_choose(size=size, first_token=first_token, num_top=num_top)


def test_a_row_chooses_alike_in_any_batch_and_shard() -> None:
    logits = normal(3, 1500, seed=0)
    choices = [Choice(seed=7, position=index, noisy=True) for index in range(3)]
    with interpreter():
        values, tokens = choose(logits, choices)
        alone = choose(logits[1:2], choices[1:2])
        shards = [
            choose(logits[:, part], choices, first_token=part.start) for part in (slice(0, 601), slice(601, 1500))
        ]
    assert same_bits(alone[0], values[1:2])
    best = torch.stack([shard[0] for shard in shards]).max(dim=0)
    assert same_bits(best.values, values)
    assert torch.equal(torch.stack([shard[1] for shard in shards]).gather(0, best.indices[None])[0], tokens)


def check_log_sums(size: int) -> None:
    """Sixteen roundings of float32 at most: a tree of sums."""
    x = normal(3, size, seed=1) * 20
    x[1] = -INFINITY
    with interpreter():
        found = log_sum(x)
    assert same_bits(found[:, 0], log_sum_reference(x)[:, 0])
    exact = torch.exp(x[[0, 2]].double() - found[[0, 2], :1].double()).sum(-1)
    assert_close(found[[0, 2], 1], exact, rtol=2e-6)
    assert float(found[1, 1]) == 0.0


@pytest.mark.parametrize("size", [1, 4097])
def test_log_sums(size: int) -> None:
    check_log_sums(size)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits must be float32 \[1, size\], got torch.float32 \(2, 3\)"):
        choose(torch.zeros(2, 3), [Choice()])
    with pytest.raises(ValueError, match=r"\[rows, size\], got torch.float64 \(1, 3\)"):
        log_sum(torch.zeros(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="num_top must be at least 1, got 0"):
        choose(torch.zeros(1, 3), [Choice()], num_top=0)
