"""Choosing with penalties and log-probabilities: on the CPU, and on a GPU in the interpreter."""

from __future__ import annotations

import contextlib

import pytest
import torch

from kernels.noise import Choice
from kernels.pick import Edit, Picked, pick, pick_reference
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import assert_close, normal, same_bits

SIZE, FIRST = 1100, 6
INFINITY = float("inf")


def scene() -> tuple[torch.Tensor, list[Choice], list[Edit]]:
    """Penalties that decide: on what would win, on what then wins, twice on one token, in two parts, and elsewhere."""
    logits = normal(4, SIZE, seed=3)
    logits[3] = -INFINITY
    best = [int(token) + FIRST for token in logits.argmax(dim=1)]
    edits = [
        Edit(row=0, token=best[0], factor=1.7, addend=-0.5),
        Edit(row=0, token=best[0], factor=1.7, addend=0.1),
        Edit(row=1, token=FIRST, addend=9.0),
        Edit(row=1, token=FIRST + SIZE - 1, addend=9.5),
        Edit(row=2, token=FIRST - 1, addend=99.0),  # of other shards
        Edit(row=2, token=FIRST + SIZE, addend=99.0),
        Edit(row=2, token=FIRST + 5, factor=1.3, addend=14.0),
    ]
    choices = [
        Choice(),
        Choice(seed=2**64 - 9, position=5, noisy=True, inverse_temperature=1.3),
        Choice(seed=4, position=2**33, noisy=True, inverse_temperature=0.7, threshold=0.3),
        Choice(noisy=True),
    ]
    return logits, choices, edits


def check(*, on_gpu: bool = True) -> None:
    """Values and tokens in every bit; log-probabilities to some roundings of the float32 sum of exponentials."""
    logits, choices, edits = scene()
    with interpreter() if on_gpu else contextlib.nullcontext():
        found = pick(logits, choices, edits, first_token=FIRST)
    expected = pick_reference(logits, choices, edits, first_token=FIRST)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert same_bits(found.values, expected.values)
    assert int(found.tokens[3]) == -1
    assert found.logprobs[3] == found.log_normalisers[3] == -INFINITY
    exact = torch.log_softmax(logits[:3].double(), dim=-1).gather(1, found.tokens[:3, None] - FIRST)
    assert_close(found.logprobs[:3], exact[:, 0], rtol=2e-6, atol=2e-6)
    assert_close(found.log_normalisers[:3], logits[:3].double().logsumexp(dim=-1), rtol=2e-6)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_choices_of_the_reference_with_their_probability(on_gpu: bool) -> None:
    check(on_gpu=on_gpu)


def test_penalties_decide_in_this_scene() -> None:
    logits, choices, edits = scene()
    with_edits, without = (pick_reference(logits, choices, some, first_token=FIRST).tokens[:3] for some in (edits, []))
    assert bool((with_edits != without).all())


def test_shards_join_to_the_whole() -> None:
    logits, choices, edits = scene()
    whole = pick(logits, choices, edits, first_token=FIRST)

    def part(first: int, last: int) -> Picked:
        with interpreter():
            return pick(logits[:, first:last].contiguous(), choices, edits, first_token=FIRST + first)

    parts = [part(0, 33), part(33, SIZE)]
    best = torch.stack([some.values for some in parts]).argmax(dim=0)
    normaliser = torch.stack([some.log_normalisers for some in parts]).logsumexp(dim=0)
    for row in range(3):
        mine = parts[int(best[row])]
        assert mine.tokens[row] == whole.tokens[row]
        joined = mine.logprobs[row] + mine.log_normalisers[row] - normaliser[row]
        assert float(joined) == pytest.approx(float(whole.logprobs[row]), abs=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    logits = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"got torch.float64 \(1, 3\)"):
        pick(logits.double(), [Choice()])
    with pytest.raises(ValueError, match="of row 1, but there are rows 0 to 0"):
        pick(logits, [Choice()], [Edit(row=1, token=0)])
    with pytest.raises(ValueError, match=r"factor of an edit must be above 0, got 0\.0 for token 2"):
        pick(logits, [Choice()], [Edit(row=0, token=2, factor=0.0)])
