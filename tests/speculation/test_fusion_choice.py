"""The kind of fusion that pays is found on the fleet's own verdicts."""

from __future__ import annotations

import random

import pytest

from contracts.errors import InvalidArgument
from speculation.fusion import FusionKind
from speculation.fusion_choice import FusionChoice

NEAR = {"step_s": 0.002, "link_s": 0.0005, "round_s": 0.03, "max_depth": 8}
FAR = {**NEAR, "link_s": 0.02}


def live(
    choice: FusionChoice, times: dict[str, float], acceptance: dict[FusionKind, float], num: int
) -> list[FusionKind]:
    """The kinds of so many sequences, each of ten verdicts with five places."""
    rng, kinds = random.Random(0), []
    for _ in range(num):
        kinds.append(choice.kind(**times))  # type: ignore[arg-type]
        for _ in range(10):
            held = sum(rng.random() < acceptance[kinds[-1]] for _ in range(5))
            choice.observe(kinds[-1], num_held=held, num_tried=5)
    return kinds


def test_the_better_kind_wins_and_the_other_is_tried_seldom() -> None:
    better = {FusionKind.EVERY_STEP: 0.8, FusionKind.MERGED: 0.6}
    kinds = live(FusionChoice(), NEAR, better, 300)
    assert kinds[-100:].count(FusionKind.EVERY_STEP) > 95
    kinds = live(FusionChoice(), FAR, better, 300)
    assert kinds[-100:].count(FusionKind.MERGED) > 95, "a round trip for every step is dear where the link is slow"


def test_what_changes_is_noticed() -> None:
    choice = FusionChoice()
    live(choice, NEAR, {FusionKind.EVERY_STEP: 0.8, FusionKind.MERGED: 0.6}, 200)
    kinds = live(choice, NEAR, {FusionKind.EVERY_STEP: 0.5, FusionKind.MERGED: 0.6}, 400)
    assert kinds[-100:].count(FusionKind.MERGED) > 95


@pytest.mark.parametrize("fixed", FusionKind)
def test_an_operators_choice_is_final(fixed: FusionKind) -> None:
    kinds = live(FusionChoice(fixed), NEAR, {FusionKind.EVERY_STEP: 0.9, FusionKind.MERGED: 0.1}, 50)
    assert set(kinds) == {fixed}


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="explore_every 1"):
        FusionChoice(explore_every=1)
    with pytest.raises(InvalidArgument, match="held 3 of 2"):
        FusionChoice().observe(FusionKind.MERGED, num_held=3, num_tried=2)
