"""Choosing with penalties, masks, limits and log-probabilities: on the CPU, and on a GPU in the interpreter."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from kernels.noise import Choice
from kernels.pick import Allowed, Edits, Picked, pick, pick_reference, scaled_logits, scaled_logits_reference
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import assert_close, normal, same_bits

SIZE, FIRST = 1100, 6
INFINITY = float("inf")


def scene() -> tuple[torch.Tensor, list[Choice], dict[str, Any]]:
    """Penalties that decide: on what would win, on what then wins, twice on one token, in two parts, and elsewhere."""
    logits = normal(4, SIZE, seed=3)
    logits[3] = -INFINITY
    best = [int(token) + FIRST for token in logits.argmax(dim=1)]
    edits = [
        (0, best[0], 1.7, -0.5),
        (0, best[0], 1.7, 0.1),
        (1, FIRST, 1.0, 9.0),
        (1, FIRST + SIZE - 1, 1.0, 9.5),
        (2, FIRST - 1, 1.0, 99.0),  # of other shards
        (2, FIRST + SIZE, 1.0, 99.0),
        (2, FIRST + 5, 1.3, 14.0),
    ]
    choices = [
        Choice(),
        Choice(seed=2**64 - 9, position=5, noisy=True, inverse_temperature=1.3),
        Choice(seed=4, position=2**33, noisy=True, inverse_temperature=0.7, threshold=0.3),
        Choice(noisy=True),
    ]
    return logits, choices, {"edits": Edits.of(edits)}


def check(*, on_gpu: bool = True) -> None:
    """Values and tokens in every bit; log-probabilities to some roundings of the float32 sum of exponentials."""
    logits, choices, asked = scene()
    with interpreter() if on_gpu else contextlib.nullcontext():
        found = pick(logits, choices, **asked, num_top=2, first_token=FIRST)
    expected = pick_reference(logits, choices, **asked, num_top=2, first_token=FIRST)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert same_bits(found.values, expected.values)
    assert same_bits(found.logits, expected.logits)
    assert found.tokens[3].tolist() == [-1, -1]
    assert found.logprobs[3].tolist() == [-INFINITY, -INFINITY]
    assert found.log_normalisers[3] == -INFINITY
    exact = torch.log_softmax(logits[:3].double(), dim=-1).gather(1, found.tokens[:3] - FIRST)
    assert_close(found.logprobs[:3], exact, rtol=2e-6, atol=2e-6)
    assert_close(found.log_normalisers[:3], logits[:3].double().logsumexp(dim=-1), rtol=2e-6)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_choices_of_the_reference_with_their_probability(on_gpu: bool) -> None:
    check(on_gpu=on_gpu)


def check_masks() -> None:
    """Three tokens may be chosen, in both parts of the shard; the row between them is free, another may choose none."""
    logits, choices, asked = scene()
    may = np.zeros((2, FIRST + SIZE + 3), bool)
    may[0, [FIRST, FIRST + 9, FIRST + SIZE - 1]] = True
    allowed = Allowed(rows=np.array([2, 0]), bits=np.packbits(may, axis=1, bitorder="little"))
    with interpreter():
        found = pick(logits, choices, **asked, allowed=allowed, num_top=4, first_token=FIRST)
    expected = pick_reference(logits, choices, **asked, allowed=allowed, num_top=4, first_token=FIRST)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert same_bits(found.values, expected.values)
    assert {token for token in found.tokens[2].tolist() if token >= 0} <= {FIRST, FIRST + 9, FIRST + SIZE - 1}
    assert found.tokens[0].tolist() == [-1] * 4
    assert (found.tokens[1] >= 0).all()


def test_masks() -> None:
    check_masks()


LIMITS = [(3, 1, 0), (0, 0.5, 0), (40, 0.7, 0.01), (0, 1, 0.4), (5000, 1, 0), (4, 1, 0)]


def check_limits(rows: tuple[int, ...]) -> None:
    """Which tokens are left, with equals, penalties and a temperature: as sorting says."""
    logits = normal(len(LIMITS), 300, seed=4) * 3
    logits[0, 100:105] = 30.0
    logits[1, 4] += 10.0
    logits[2, ::2] = -INFINITY
    logits[4, 3] = float("nan")
    choices = [Choice(inverse_temperature=0.8, seed=row, noisy=row % 2 == 0) for row in rows]
    edits = Edits.of([(place, FIRST + 4, 1.5, 1.0) for place in range(len(rows))])
    asked: dict[str, Any] = {"edits": edits, "num_top": 7, "first_token": FIRST}
    logits, limits = logits[list(rows)], np.array(LIMITS, dtype=np.float64)[list(rows)]
    with interpreter():
        found = pick(logits, choices, limits=limits, **asked)
    expected = pick_reference(logits, choices, limits=limits, **asked)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert same_bits(found.values, expected.values)
    num_left = (found.tokens >= 0).sum(dim=1).tolist()
    assert num_left == [{0: 5, 1: 3, 2: 6, 3: 6, 4: 7, 5: 4}[row] for row in rows]


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.pick._LIMIT_BLOCK", 256)  # two blocks a row
    check_limits((0, 1, 2, 3, 4, 5))


def check_thresholds() -> None:
    """In every bit, below zero too: the 200th largest of 300, and the last of those with 0.9 of the mass."""
    logits, choices = normal(2, 300, seed=6) - 1.0, [Choice(), Choice()]
    with interpreter():
        from kernels.gpu.pick import bring, pick_brought

        limits = np.array([(200, 1.0, 0.0), (0, 0.9, 0.0)])
        brought = bring(logits, choices, Edits.of(), Allowed.all(), limits, first_token=0)
        pick_brought(logits, brought, num_top=1, first_token=0)
    found = brought.asked.choices.view(torch.float32)[:, 5]
    best, ordered = logits.sort(descending=True).values, logits[1].double().sort(descending=True).values
    sums = ordered.exp().cumsum(0)
    expected = [float(best[0, 199]), float(ordered[int((sums < 0.9 * sums[-1]).sum())])]
    assert max(expected) < 0
    assert found.tolist() == expected


def test_thresholds() -> None:
    check_thresholds()


def test_what_is_asked_lies_at_multiples_of_sixteen_bytes() -> None:
    """However many edits, masks and limits there are: each other alignment would be another kernel to compile."""
    logits, choices = torch.zeros(3, SIZE), [Choice()] * 3
    for count in (1, 2, 3):
        edits = Edits.of([(0, FIRST + i, 2.0, 0.0) for i in range(count)])
        allowed = Allowed(rows=np.arange(count), bits=np.zeros((count, 139), np.uint8))
        with interpreter():
            from kernels.gpu.pick import bring

            brought = bring(logits, choices, edits, allowed, np.array([(count, 1, 0)] * 3), first_token=FIRST)
        asked = brought.asked
        parts = (asked.choices, asked.edit_starts, asked.edit_tokens, asked.edit_values, asked.mask_of, asked.masks)
        places = [part.data_ptr() for part in (*parts, brought.rows, brought.bounds) if part is not None]
        assert len(places) == 8
        assert {(place - places[0]) % 16 for place in places} == {0}


def check_scaled_logits() -> None:
    logits, choices, asked = scene()
    with interpreter():
        found = scaled_logits(logits, choices, [2, 0], **asked, first_token=FIRST)
    assert same_bits(found, scaled_logits_reference(logits, choices, [2, 0], **asked, first_token=FIRST))


def test_scaled_logits() -> None:
    check_scaled_logits()


def test_penalties_decide_in_this_scene() -> None:
    logits, choices, asked = scene()
    with_edits, without = (
        pick_reference(logits, choices, **some, first_token=FIRST).tokens[:3] for some in (asked, {})
    )
    assert bool((with_edits != without).all())


def test_shards_join_to_the_whole() -> None:
    logits, choices, asked = scene()
    whole = pick(logits, choices, **asked, first_token=FIRST)

    def part(first: int, last: int) -> Picked:
        with interpreter():
            return pick(logits[:, first:last].contiguous(), choices, **asked, first_token=FIRST + first)

    parts = [part(0, 33), part(33, SIZE)]
    best = torch.stack([some.values[:, 0] for some in parts]).argmax(dim=0)
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
    with pytest.raises(ValueError, match="an edit is of row 1, but there are rows 0 to 0"):
        pick(logits, [Choice()], edits=Edits.of([(1, 0, 1.0, 0.0)]))
    with pytest.raises(ValueError, match="a mask is of row -1, but there are rows 0 to 0"):
        pick(logits, [Choice()], allowed=Allowed(rows=np.array([-1]), bits=np.zeros((1, 1), np.uint8)))
    with pytest.raises(ValueError, match=r"factor of an edit must be above 0, got 0\.0 for token 2"):
        pick(logits, [Choice()], edits=Edits.of([(0, 2, 0.0, 0.0)]))
    with pytest.raises(ValueError, match=r"limits must be \[1, 3\], a row for each choice; got \(2, 3\)"):
        pick(logits, [Choice()], limits=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="num_top must be at least 1, got 0"):
        pick(logits, [Choice()], num_top=0)
