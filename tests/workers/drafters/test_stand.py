"""Stochastic n-gram drafting: stored distributions, and draws by the noise that the target uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from contracts.types import ROOT, DrafterId, SamplingParams, TokenLogprob
from kernels.noise import noise_reference
from tests.workers.drafters.rig import ONE, VOCAB_SIZE, A, check_tree, proposed
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.stand import Stand

PROBS = {10: 0.4, 11: 0.3, 12: 0.2, 13: 0.1}
AFTER_ONE = TokenLogprob(
    token=10, logprob=math.log(0.4), top=tuple((token, math.log(prob)) for token, prob in PROBS.items())
)


def shared_noise(seed: int, position: int, tokens: Sequence[int]) -> list[float]:
    return [float(noise_reference(seed, position, token, token + 1)[0]) for token in tokens]


def taught(temperature: float, seed: int = 1, *, with_noise: bool = True) -> Stand:
    """One that has seen what the target thinks after a 1, twenty times; the text ends with a 1."""
    drafter = Stand(drafter=DrafterId("stand"), vocab_size=VOCAB_SIZE, noise=shared_noise if with_noise else None)
    sampling = SamplingParams(temperature=temperature, seed=seed)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=[1], sampling=sampling)])
    for turn in range(20):
        logprobs = (AFTER_ONE, TokenLogprob(token=1, logprob=0.0))
        drafter.commit([Commit(sequence=ONE, position=1 + 2 * turn, tokens=[10, 1], logprobs=logprobs)])
    return drafter


def targets_choice(seed: int, position: int, temperature: float) -> int:
    """What a target that thinks so chooses: argmax of scaled logit plus the shared noise."""
    values = [math.log(prob) / temperature for prob in PROBS.values()]
    noises = shared_noise(seed, position, list(PROBS))
    return list(PROBS)[int(np.argmax(np.add(values, noises)))]


def test_greedy_takes_the_likeliest_with_their_probabilities() -> None:
    firsts = [node for node in proposed(taught(0.0), ONE, 40) if node.parent == ROOT]
    assert [node.token for node in firsts][:4] == [10, 11, 12, 13]
    for node in firsts:
        assert node.confidence == pytest.approx(PROBS[node.token], rel=0.06)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_what_it_knows_well_it_draws_as_the_target_does(temperature: float) -> None:
    """Promise 2: with the target's own distribution the first proposal is the target's choice at every place."""
    num_agreed = num_plain = 0
    for seed in range(40):
        drafter = taught(temperature, seed)
        (tree,) = drafter.propose([Ask(sequence=ONE, num_nodes=4)])
        check_tree(tree, 4)
        choice = targets_choice(seed, 41, temperature)
        num_agreed += tree[0].token == choice
        num_plain += proposed(taught(temperature, seed, with_noise=False), ONE, 1)[0].token == choice
    assert num_agreed == 40
    assert num_plain < 30


def test_positions_below_a_path_have_their_own_noise() -> None:
    drafter = taught(1.0, seed=5)
    for num_more in range(4):
        below = (10, 1) * num_more
        first = proposed(drafter, ONE, 6, below)[0].token
        assert first == targets_choice(5, 41 + 2 * num_more, 1.0)


def test_noise_at_a_depth_is_that_of_the_position() -> None:
    drafter = taught(1.0, seed=8)
    tree = proposed(drafter, ONE, 40)
    below_one = [node.token for node in tree if node.parent != ROOT and tree[node.parent].token == 1]
    assert below_one[0] == targets_choice(8, 43, 1.0)


def test_the_longest_known_context_decides_and_counts_are_averaged() -> None:
    drafter = Stand(drafter=DrafterId("stand"), vocab_size=VOCAB_SIZE)
    text = [5, 6, 7, 20, 6, 7, 21, 9, 7, 22, 9, 7, 22, 8, 5, 6, 7]
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=text)])
    assert [node.token for node in proposed(drafter, ONE, 10) if node.parent == ROOT] == [20]
    firsts = [node for node in proposed(drafter, ONE, 10, below=(1, 7)) if node.parent == ROOT]
    assert firsts[0].token == 22  # after 7 alone: half of the time
    assert firsts[0].confidence == pytest.approx(0.5 * 4 / 5)
