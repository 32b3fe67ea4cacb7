"""What drafting costs is found by trying, whatever it is made of; and finding out costs next to nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from contracts.errors import InvalidArgument
from speculation.manner import Manner
from speculation.ways import WayChoice

FLEET = (Manner.AHEAD, Manner.IN_TURN, Manner.PLAIN)
PLAIN_S = 0.02  # of a plain round, as probed

Gains = Callable[[Manner, int], float]


class World:
    """A fleet in which a manner of so many sequences gains what `gains` says, give or take what its tokens do."""

    def __init__(self, gains: Gains, *, probed: float = 1.0, seed: int = 0) -> None:
        self.gains, self.probed = gains, probed
        self.choice = WayChoice[Manner](plain={Manner.PLAIN: 0.95})
        self.random = np.random.default_rng(seed)

    def run(self, num_rounds: int, num_sequences: int, manners: tuple[Manner, ...] = FLEET) -> Counter[Manner]:
        used: Counter[Manner] = Counter()
        for _ in range(num_rounds):
            manner = self.choice.now("kind", manners)
            used[manner] += 1
            num_tokens, elapsed_s = num_sequences, PLAIN_S
            if manner is not Manner.PLAIN:
                num_tokens += int(self.random.poisson(num_sequences))
                elapsed_s *= 2.0 / self.gains(manner, num_sequences)
            self.choice.observe(
                "kind",
                manners,
                num_sequences=num_sequences,
                num_tokens=num_tokens,
                plain_s=self.probed * PLAIN_S * num_tokens / num_sequences,
                elapsed_s=elapsed_s,
            )
        return used


@pytest.mark.parametrize("probed", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_sequences", [1, 16])
@pytest.mark.parametrize("best", FLEET)
def test_the_best_is_used_and_knowing_it_costs_next_to_nothing(best: Manner, num_sequences: int, probed: float) -> None:
    world = World(lambda manner, _: 1.3 if manner is best else 0.7, probed=probed)
    if best is Manner.PLAIN:
        world.gains = lambda manner, _: 0.7
    world.run(500, num_sequences)
    used = world.run(2000, num_sequences)
    assert used[best] > 0.97 * used.total(), used


def test_what_never_pays_is_used_less_and_less() -> None:
    world = World(lambda manner, _: 0.8)
    shares = [1.0 - world.run(1000, 8)[Manner.PLAIN] / 1000 for _ in range(4)]
    assert shares[0] < 0.08, shares
    assert shares[-1] < 0.02, shares


def test_what_is_hopeless_is_hardly_tried_again() -> None:
    world = World(lambda manner, _: 0.6)
    world.run(60, 16)
    assert 1.0 - world.run(400, 16)[Manner.PLAIN] / 400 < 0.05


def test_a_change_for_the_better_and_for_the_worse_is_noticed() -> None:
    world = World(lambda manner, _: 0.8)
    world.run(1000, 4)
    world.gains = lambda manner, _: 1.5
    world.run(2000, 4)
    assert world.run(500, 4)[Manner.PLAIN] < 25
    world.gains = lambda manner, _: 0.6
    world.run(150, 4)
    assert world.run(500, 4)[Manner.PLAIN] > 400


@pytest.mark.parametrize("seed", range(5))
def test_a_way_that_was_worse_for_long_is_found_when_it_is_better(seed: int) -> None:
    world = World(lambda manner, _: {Manner.AHEAD: 1.2, Manner.IN_TURN: 1.0, Manner.PLAIN: 0.5}[manner], seed=seed)
    world.run(6000, 1)
    world.gains = lambda manner, _: {Manner.AHEAD: 1.0, Manner.IN_TURN: 1.3, Manner.PLAIN: 0.5}[manner]
    world.run(2600, 1)
    assert world.run(300, 1)[Manner.IN_TURN] > 200, "pauses between trials have an end"


def test_ways_that_come_and_go_are_neither_used_where_they_may_not_nor_forgotten() -> None:
    world = World(lambda manner, _: {Manner.AHEAD: 1.5, Manner.IN_TURN: 1.2, Manner.PLAIN: 0.9}[manner])
    world.run(500, 4)
    assert world.run(100, 4, (Manner.PLAIN, Manner.IN_TURN))[Manner.AHEAD] == 0
    assert world.choice.now("kind", (Manner.PLAIN, Manner.IN_TURN)) is Manner.IN_TURN
    world.choice.now("kind", (Manner.AHEAD,))
    assert world.run(60, 4)[Manner.AHEAD] > 40


def test_each_load_has_its_own_answer_from_the_first_round_on() -> None:
    world = World(lambda manner, num: 1.6 if num <= 2 else 0.6)
    for _ in range(10):
        world.run(100, 1)
        world.run(100, 16)
    assert world.run(200, 1)[Manner.PLAIN] < 20
    assert world.run(200, 16)[Manner.PLAIN] > 180
    assert world.run(3, 32)[Manner.PLAIN] == 3, "a load that was never seen begins as its neighbour goes on"
    assert world.choice.now("kind of its own", FLEET) is Manner.AHEAD


def test_a_lucky_text_is_not_taken_for_a_good_way() -> None:
    """One sequence after another; each brings two to seven tokens a round, whichever way they are drafted for."""
    took_s = {"turn": 0.030, "two": 0.034, "ahead": 0.0325, "both": 0.035, "plain": 0.019}
    ways = tuple(took_s)

    def rate(seed: int) -> float:
        choice, random = WayChoice[str](plain={"plain": 0.95}), np.random.default_rng(seed)
        tokens, seconds, best_s = 0, 0.0, 0.0
        for index in range(3000):
            if index % 7 == 0:
                ease = random.uniform(1.0, 6.0)
            way = choice.now("kind", ways)
            num_tokens = 1 if way == "plain" else 1 + int(random.binomial(8, ease / 8))
            elapsed_s = took_s[way] * random.lognormal(0.0, 0.06)
            plain_s = 0.018 * num_tokens
            choice.observe("kind", ways, num_sequences=1, num_tokens=num_tokens, plain_s=plain_s, elapsed_s=elapsed_s)
            tokens, seconds = tokens + num_tokens, seconds + elapsed_s
            best_s += took_s["turn"] * num_tokens / (1.0 + ease)
        return best_s / seconds

    assert np.mean([rate(seed) for seed in range(8)]) > 0.972


def test_whoever_joins_is_given_a_chance_soon() -> None:
    world = World(lambda manner, _: 0.7)
    world.run(5000, 4)
    world.gains = lambda manner, _: 1.8
    world.choice.renewed()
    world.run(100, 4)
    assert world.run(100, 4)[Manner.PLAIN] < 20


def test_a_mode_is_held_to_its_manners() -> None:
    world = World(lambda manner, _: 0.5)
    assert set(world.run(2000, 4, (Manner.IN_TURN, Manner.PLAIN))) == {Manner.IN_TURN, Manner.PLAIN}
    assert set(World(lambda manner, _: 0.5).run(200, 4, (Manner.AHEAD,))) == {Manner.AHEAD}


def test_wrong_settings_are_named() -> None:
    with pytest.raises(InvalidArgument, match="pauses from 9 to 3"):
        WayChoice(shortest_pause=9, longest_pause=3)
