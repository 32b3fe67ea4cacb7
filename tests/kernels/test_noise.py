"""Shared noise: its bits, its distribution, and the choices it makes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.noise import (
    Choice,
    choose,
    choose_reference,
    gumbel,
    log_sum,
    log_sum_reference,
    noise,
    noise_reference,
    philox,
)
from tests.kernels.rig import FORMS, dependent_rows, form, normal, require_library, same_bits

WORDS = st.integers(0, 2**64 - 1)
EULER = 0.5772156649015329
MINUS_INFINITY = float("-inf")

# Random123's published answers for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = words(counter)
    k0, k1 = words(key)
    assert philox(torch.tensor([c0]), (c1, c2, c3), (k0, k1)).tolist() == [words(answer)]


def test_noise_is_made_of_the_published_words() -> None:
    """The first four tokens at seed 0, position 0 are Gumbel noise of the first known answer, in order."""
    expected = gumbel(torch.tensor(words(KNOWN_ANSWERS[0][2])))
    for name in FORMS:
        with form(name):
            assert same_bits(noise(0, 0, 0, 4), expected)


def test_gumbel_is_right_to_float32_in_both_tails() -> None:
    """Against float64, from the smallest word to the largest, and densely where the tails begin."""
    ends = [0, 1, 2, 3, 2**32 - 1, 2**32 - 2, 2**32 - 3, 2**31, 3 * 2**30, 3 * 2**30 - 1, 3 * 2**30 + 1]
    generator = torch.Generator().manual_seed(0)
    spread = torch.randint(0, 2**32, (200_000,), generator=generator)
    small = 2 ** torch.linspace(0, 31.9, 5000, dtype=torch.float64)
    bits = torch.cat([torch.tensor(ends), spread, small.long(), 2**32 - 1 - small.long()])
    found = gumbel(bits).double()
    above = ((2**32 - 1 - bits).double() + 0.5) * 2.0**-32
    exact = -torch.log(-torch.log1p(-above))
    error = (found - exact).abs()
    assert found.isfinite().all()
    assert error.max() < 1e-6  # near 0 in absolute terms, at the ends (-3.1, 22.9) a unit in the last place
    assert found.max() > 22.8
    assert found.min() < -3.09


@settings(max_examples=60)
@given(seed=WORDS, position=WORDS, first=st.integers(0, 2**20), size=st.integers(1, 400))
@example(seed=0, position=0, first=0, size=1)
@example(seed=2**64 - 1, position=2**64 - 1, first=3, size=257)
@example(seed=1, position=2**63, first=2**31 - 70, size=65)
def test_native_is_the_definition_bit_for_bit(seed: int, position: int, first: int, size: int) -> None:
    require_library()
    expected = noise_reference(seed, position, first, first + size)
    assert expected.shape == (size,)
    assert same_bits(noise(seed, position, first, first + size), expected)


@pytest.mark.parametrize("name", FORMS)
def test_a_shard_is_a_slice_of_the_whole(name: str) -> None:
    with form(name):
        whole = noise(7, 9, 0, 1003)
        for first, last in ((0, 1), (1, 2), (2, 1003), (3, 7), (251, 502), (500, 500 + 64), (999, 1003), (64, 64)):
            assert same_bits(noise(7, 9, first, last), whole[first:last])


def kolmogorov_distance(sample: torch.Tensor) -> float:
    """Largest distance between a sample's distribution and Gumbel's, times sqrt(n): above 1.95 once in a thousand."""
    u = torch.exp(-torch.exp(-sample.double())).sort().values
    n = len(u)
    steps = torch.arange(n, dtype=torch.float64)
    return float(torch.maximum(u - steps / n, (steps + 1) / n - u).max()) * math.sqrt(n)


def chi_square(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """In standard deviations of its own distribution (near normal for the sizes used here)."""
    value = float(((observed.double() - expected) ** 2 / expected).sum())
    freedom = observed.numel() - 1
    return (value - freedom) / math.sqrt(2 * freedom)


def test_noise_has_the_gumbel_distribution() -> None:
    sample = noise(3, 5, 0, 400_000)
    n = len(sample)
    assert kolmogorov_distance(sample) < 1.95
    assert abs(float(sample.double().mean()) - EULER) < 4 * math.pi / math.sqrt(6 * n)
    assert abs(float(sample.double().var()) - math.pi**2 / 6) < 4 * math.sqrt(4.4 / n) * math.pi**2 / 6
    for level in (2.0, 5.0, 8.0):  # P(g > x) = 1 - exp(-exp(-x)), and the short left tail
        expected = n * -math.expm1(-math.exp(-level))
        assert abs(int((sample > level).sum()) - expected) < 4 * math.sqrt(expected)
    expected = n * math.exp(-math.exp(2.0))
    assert abs(int((sample < -2.0).sum()) - expected) < 4 * math.sqrt(expected)


def test_a_slightly_wrong_distribution_is_caught() -> None:
    sample = noise(3, 5, 0, 400_000)
    assert kolmogorov_distance(sample * 1.02) > 1.95
    assert kolmogorov_distance(sample + 0.01) > 1.95


@pytest.mark.parametrize(
    "other",
    [(4, 5, 0), (3, 6, 0), (3 + 2**32, 5, 0), (3, 5 + 2**32, 0), (3 + 2**63, 5, 0), (5, 3, 0), (3, 5, 1), (3, 5, 4)],
)
def test_noise_of_other_seeds_positions_and_tokens_is_independent(other: tuple[int, int, int]) -> None:
    """No correlation, and pairs spread evenly over an 8 by 8 grid of quantiles."""
    n = 60_000
    seed, position, shift = other
    a, b = noise(3, 5, 0, n), noise(seed, position, shift, n + shift)
    assert not torch.equal(a, b)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(n)
    cells = [torch.exp(-torch.exp(-x.double())).mul(8).long().clamp(0, 7) for x in (a, b)]
    counts = torch.bincount(cells[0] * 8 + cells[1], minlength=64)
    assert chi_square(counts, torch.full((64,), n / 64, dtype=torch.float64)) < 4


def test_noise_over_positions_and_over_seeds_is_gumbel_too() -> None:
    """A token's noise along a text, and over requests: what one sequence of choices consumes."""
    over_positions = torch.stack([noise(1, i, 40, 44) for i in range(2000)]).flatten()
    over_seeds = torch.stack([noise(i, 7, 40, 44) for i in range(2000)]).flatten()
    assert kolmogorov_distance(over_positions) < 1.95
    assert kolmogorov_distance(over_seeds) < 1.95


@pytest.mark.parametrize("inverse_temperature", [1.0, 0.5, 2.5])
def test_choices_follow_softmax(inverse_temperature: float) -> None:
    require_library()
    logits = torch.tensor([1.5, 0.0, -1.0, 2.0, 0.3, 0.3, -2.5, 1.0, 0.9])
    n = 30_000
    choices = [Choice(seed=11, position=i, inverse_temperature=inverse_temperature, noisy=True) for i in range(n)]
    _, tokens = choose(logits.expand(n, -1), choices)
    counts = torch.bincount(tokens.flatten(), minlength=9)
    probabilities = torch.softmax(logits.double() * inverse_temperature, dim=0)
    assert chi_square(counts, probabilities * n) < 4
    wrong = torch.softmax(logits.double() * inverse_temperature * 1.05, dim=0)
    assert chi_square(counts, wrong * n) > 4  # a temperature off by a twentieth is caught


ROW = st.fixed_dictionaries(
    {
        "seed": WORDS,
        "position": WORDS,
        "inverse_temperature": st.sampled_from([1.0, 0.7, 3.0]),
        "noisy": st.booleans(),
        "threshold": st.sampled_from([MINUS_INFINITY, -0.5, 0.25, 1.0, 1e9]),
    }
)


@settings(max_examples=60)
@given(
    rows=st.lists(ROW, min_size=1, max_size=6),
    size=st.integers(1, 150),
    num_top=st.integers(1, 6),
    first_token=st.integers(0, 70),
    seed=st.integers(0, 2**30),
    num_threads=st.integers(1, 3),
)
def test_native_chooses_as_the_reference_bit_for_bit(
    rows: list[dict[str, float]], size: int, num_top: int, first_token: int, seed: int, num_threads: int
) -> None:
    """With ties (few distinct logits), masked tokens, thresholds that equal a logit, and NaN, which takes no part."""
    require_library()
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-4, 5, (len(rows), size), generator=generator).float() / 4
    logits[torch.rand(logits.shape, generator=generator) < 0.1] = MINUS_INFINITY
    logits[torch.rand(logits.shape, generator=generator) < 0.05] = float("nan")
    choices = [Choice(**row) for row in rows]  # type: ignore[arg-type]  # hypothesis knows one type for all values
    expected = choose_reference(logits, choices, num_top=num_top, first_token=first_token)
    with native.use_threads(num_threads):
        found = choose(logits, choices, num_top=num_top, first_token=first_token)
    assert torch.equal(found[1], expected[1])
    # Whether the best of equals is +0 or -0 is nobody's promise.
    assert same_bits(found[0] + 0.0, expected[0] + 0.0)


@pytest.mark.parametrize("name", FORMS)
def test_choose_by_its_definition(name: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, MINUS_INFINITY, 2.0, -1.0]])
    with form(name):
        values, tokens = choose(logits, [Choice()], num_top=7)
        assert tokens.tolist() == [[1, 2, 4, 0, 5, -1, -1]]  # equals by smaller token, nothing where none is left
        assert values.tolist() == [[3.0, 3.0, 2.0, 1.0, -1.0, MINUS_INFINITY, MINUS_INFINITY]]
        _, tokens = choose(logits, [Choice(threshold=2.0)], num_top=4)
        assert tokens.tolist() == [[1, 2, 4, -1]]  # what equals the threshold takes part
        values, tokens = choose(logits, [Choice(threshold=1.0, inverse_temperature=0.5)], num_top=4)
        assert (tokens.tolist(), values.tolist()) == ([[1, 2, 4, -1]], [[1.5, 1.5, 1.0, MINUS_INFINITY]])
        values, tokens = choose(logits, [Choice(seed=5, position=6, noisy=True)], num_top=6, first_token=13)
        noisy = logits[0] + noise_reference(5, 6, 13, 19)
        order = noisy.argsort(descending=True)[:5]
        assert tokens.tolist() == [[*(order + 13).tolist(), -1]]
        assert same_bits(values[0, :5], noisy[order])
        _, tokens = choose(torch.full((1, 40), MINUS_INFINITY), [Choice(seed=5, noisy=True)])
        assert tokens.tolist() == [[-1]]
        values, tokens = choose(torch.empty(0, 10), [])
        assert (values.shape, tokens.shape) == ((0, 1), (0, 1))


@pytest.mark.parametrize("name", FORMS)
def test_rows_that_do_not_lie_in_one_piece_are_read_too(name: str) -> None:
    """The best of each row is its first: the place where an allocator writes when it takes memory back."""
    x = normal(3, 200, seed=4)[:, ::2]
    x[:, 0] = 9.0
    with form(name):
        assert choose(x, [Choice()] * 3)[1].tolist() == [[0]] * 3
        assert same_bits(log_sum(x), log_sum(x.contiguous()))


@pytest.mark.parametrize("cut", [1, 30, 64, 127])
def test_shards_choose_together_what_the_whole_chooses(cut: int) -> None:
    """The larger of two shards' best, at any cut of the vocabulary, is the best of all."""
    logits = normal(40, 131, seed=0)
    choices = [Choice(seed=i, position=3 * i, noisy=True) for i in range(40)]
    values, tokens = choose(logits, choices)
    left = choose(logits[:, :cut].contiguous(), choices)
    right = choose(logits[:, cut:].contiguous(), choices, first_token=cut)
    from_left = left[0] >= right[0]
    assert torch.equal(torch.where(from_left, left[1], right[1]), tokens)
    assert same_bits(torch.where(from_left, left[0], right[0]), values)
    assert len(set(tokens.flatten().tolist())) > 20


@pytest.mark.parametrize("size", [133, 9001])
def test_a_choice_does_not_depend_on_its_neighbours(size: int) -> None:
    require_library()
    logits = normal(15, size, seed=1)
    # A row carries its number in a last column, so that it keeps its seed in every group.
    x = torch.cat([logits, torch.arange(15.0)[:, None]], dim=1)

    def operation(some: torch.Tensor) -> torch.Tensor:
        numbers = some[:, -1].int().tolist()
        values, tokens = choose(
            some[:, :-1].contiguous(), [Choice(seed=n, position=n, noisy=n % 3 > 0) for n in numbers], num_top=3
        )
        return torch.cat([values.double(), tokens.double()], dim=1)

    assert dependent_rows(operation, x, seed=2) == []


@settings(max_examples=40)
@given(
    rows=st.integers(1, 8),
    size=st.integers(1, 300),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    share_masked=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 2**30),
    name=st.sampled_from(FORMS),
)
def test_log_sum_is_right(rows: int, size: int, scale: float, share_masked: float, seed: int, name: str) -> None:
    x = normal(rows, size, seed=seed) * scale
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share_masked] = MINUS_INFINITY
    x[:, 0] = 0.0
    with form(name):
        parts = log_sum(x)
    largest = x.max(dim=1).values
    exact = torch.exp(x.double() - largest[:, None].double()).sum(1)
    assert same_bits(parts[:, 0] + 0.0, largest + 0.0)
    assert ((parts[:, 1].double() - exact).abs() <= exact * 2e-6).all()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [5, 16, 40])
def test_log_sum_of_a_masked_row_adds_nothing_and_nan_stays_nan(size: int, name: str) -> None:
    x = torch.full((3, size), MINUS_INFINITY)
    x[1, size // 2] = 2.0
    x[2] = 1.0
    x[2, size // 2] = float("nan")
    with form(name):
        parts = log_sum(x)
    assert parts[:2].tolist() == [[MINUS_INFINITY, 0.0], [2.0, 1.0]]
    assert parts[2, 1].isnan()


@pytest.mark.parametrize("size", [133, 9001])
def test_log_sum_of_a_row_does_not_depend_on_its_neighbours(size: int) -> None:
    require_library()
    assert dependent_rows(log_sum, normal(15, size, seed=1) * 10, seed=2) == []
    assert torch.allclose(log_sum(normal(4, 77, seed=3)), log_sum_reference(normal(4, 77, seed=3)), rtol=2e-6)
