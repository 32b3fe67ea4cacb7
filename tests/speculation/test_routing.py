"""Routing finds the right specialist and follows changes, on a simulated fleet; and its rules one by one.

The stream is synthetic: prompts of several domains, drafters whose chance to agree with the target depends on the
domain, all with some noise between requests. Every drafter that follows a request scores its tokens. The oracle knows
the true rates and speeds, and picks by the same accepted tokens per second.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.drafter_speed import DrafterSpeed
from speculation.expertise import Expertise
from speculation.features import prompt_features
from speculation.routing import DrafterOffer, RoutingRules, SequenceWish, best_gains, route
from speculation.sequence_scores import SequenceScores
from speculation.trials import AcceptedLength, tried_as
from tests.speculation.domains import Domains

NUM_DOMAINS = 5
ROUND_S = 0.04
STRETCH = 16


class Fleet:
    """Five specialists, a generalist, and an expert in everything whose steps take too long."""

    def __init__(self, seed: int, *, follow_share: float) -> None:
        self.rng = random.Random(seed)
        self.follow_share = follow_share
        self.domains = Domains(num_domains=NUM_DOMAINS, seed=seed)
        self.names = [DrafterId(f"specialist{domain}") for domain in range(NUM_DOMAINS)]
        self.names += [DrafterId("generalist"), DrafterId("slow")]
        self.rates = [[0.85 if domain == one else 0.35 for domain in range(NUM_DOMAINS)] for one in range(NUM_DOMAINS)]
        self.rates += [[0.6] * NUM_DOMAINS, [0.95] * NUM_DOMAINS]
        self.steps_s = [0.004] * (NUM_DOMAINS + 1) + [0.06]
        self.speeds = [DrafterSpeed() for _ in self.names]
        self.expertise = Expertise()

    def offers(self) -> list[DrafterOffer]:
        return [
            DrafterOffer(drafter=name, step_s=speed.step_s if speed else 0.005, link_s=0.001, capacity=16)
            for name, speed in zip(self.names, self.speeds, strict=True)
        ]

    def oracle(self, domain: int) -> DrafterId:
        agreements = np.array([rates[domain] for rates in self.rates])
        gains = best_gains(agreements, np.array(self.steps_s), np.full(len(self.names), 0.001), ROUND_S, 8)
        return self.names[int(gains.argmax())]

    def serve(self, domain: int, num_tokens: int = 64) -> DrafterId:
        """One request, routed again every few tokens; the drafter it was with for most of them."""
        features = prompt_features(self.domains.prompt(domain))
        scores = SequenceScores({name: self.expertise.agreement(features, name) for name in self.names})
        rates = [min(max(rates[domain] + self.rng.gauss(0.0, 0.05), 0.0), 1.0) for rates in self.rates]
        length, current, used = AcceptedLength(threshold=1.0), frozenset[DrafterId](), list[DrafterId]()
        for start in range(0, num_tokens, STRETCH):
            agreements = [tried_as(scores.score(n), scores.num_tokens(n), length.trial_share) for n in self.names]
            wish = SequenceWish(agreements=agreements, current=current, num_tokens=start)
            (picked,) = route([wish], self.offers(), round_s=ROUND_S)
            current = frozenset(picked)
            used += picked
            self.decode(scores, length, rates, current)
        for seen in scores.agreements():
            self.expertise.learn(features, seen.drafter, seen.agreement, seen.num_tokens)
        self.expertise.see(features)
        return max(used, key=used.count) if used else DrafterId("none")

    def decode(
        self, scores: SequenceScores, length: AcceptedLength, rates: list[float], current: frozenset[DrafterId]
    ) -> None:
        run = 0
        for _ in range(STRETCH):
            for name, rate, step_s, speed in zip(self.names, rates, self.steps_s, self.speeds, strict=True):
                matched = self.rng.random() < rate
                if name in current:
                    scores.drafted(name, confidence=rate, chosen=matched)
                    if matched:
                        run += 1
                    else:
                        length.observe(run)
                        run = 0
                elif self.rng.random() < self.follow_share:
                    scores.followed(name, float(matched))
                if self.rng.random() < 0.1:
                    speed.observe(num_sequences=1, elapsed_s=step_s * self.rng.lognormvariate(0.0, 0.1))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("follow_share", [1.0, 0.25])
def test_finds_the_right_specialist_within_200_requests(seed: int, follow_share: float) -> None:
    fleet = Fleet(seed, follow_share=follow_share)
    hits = []
    for _ in range(200):
        domain = fleet.rng.randrange(NUM_DOMAINS)
        hits.append(fleet.serve(domain) == fleet.oracle(domain))
    assert sum(hits[100:]) / 100 >= 0.85


@pytest.mark.parametrize("change", ["worse", "slower"])
def test_a_drafter_that_changes_is_ranked_anew_within_50_requests(change: str) -> None:
    fleet = Fleet(4, follow_share=0.5)
    for _ in range(150):
        fleet.serve(fleet.rng.randrange(NUM_DOMAINS))
    assert fleet.serve(0) == "specialist0"
    if change == "worse":
        fleet.rates[0] = [0.2] * NUM_DOMAINS
    else:
        fleet.steps_s[0] = 0.08
    assert fleet.oracle(0) == "generalist"
    hits = []
    for index in range(80):
        domain = index % NUM_DOMAINS
        hits.append(fleet.serve(domain) == fleet.oracle(domain))
    assert sum(hits[50:]) / 30 >= 0.85
    changed = [hit for index, hit in enumerate(hits) if index >= 50 and index % NUM_DOMAINS == 0]
    assert sum(changed) >= len(changed) - 1  # a trial of another one is no error


def test_a_slow_expert_loses_to_a_fast_generalist() -> None:
    offers = [
        DrafterOffer(drafter=DrafterId("expert"), step_s=0.05, link_s=0.0, capacity=4),
        DrafterOffer(drafter=DrafterId("generalist"), step_s=0.004, link_s=0.0, capacity=4),
    ]
    assert route([SequenceWish(agreements=[0.95, 0.7])], offers, round_s=0.04) == [("generalist",)]
    assert route([SequenceWish(agreements=[0.95, 0.7])], offers, round_s=0.4) == [("expert",)]


def test_companions_must_be_nearly_as_good_and_only_as_many_as_load_allows() -> None:
    offers = [DrafterOffer(drafter=DrafterId(name), step_s=0.004, link_s=0.0, capacity=4) for name in "abc"]
    wish = SequenceWish(agreements=[0.8, 0.78, 0.3])
    assert route([wish], offers, round_s=0.04, num_cooperating=1) == [("a",)]
    assert route([wish], offers, round_s=0.04, num_cooperating=3) == [("a", "b")]


def test_moving_has_to_pay() -> None:
    offers = [
        DrafterOffer(drafter=DrafterId(name), step_s=0.004, link_s=0.0, capacity=4, prefill_s_per_token=1e-3)
        for name in "ab"
    ]

    def picked(agreement: float, **more: float) -> str:
        wish = SequenceWish(
            agreements=[0.6, agreement],
            current=frozenset({DrafterId("a")}),
            num_tokens=int(more.get("num_tokens", 0)),
            remaining_s=more.get("remaining_s", 10.0),
        )
        return route([wish], offers, round_s=0.04)[0][0]

    assert picked(0.61) == "a"
    assert picked(0.75) == "b"
    assert picked(0.75, num_tokens=9000) == "a"
    assert picked(0.75, num_tokens=2000, remaining_s=2.5) == "a"


def test_crowding_spreads_load() -> None:
    offers = [
        DrafterOffer(drafter=DrafterId(name), step_s=0.01, link_s=0.0, capacity=8, crowding=0.5) for name in "abcd"
    ]
    picked = route([SequenceWish(agreements=[0.7] * 4)] * 8, offers, round_s=0.04)
    counts = [picked.count((DrafterId(name),)) for name in "abcd"]
    assert sum(counts) == 8
    assert 1 <= min(counts) <= max(counts) <= 3  # without crowding the first would get all it has room for


def test_worthless_drafters_are_not_used_and_nonsense_is_refused() -> None:
    offers = [DrafterOffer(drafter=DrafterId("a"), step_s=0.004, link_s=0.0, capacity=4)]
    assert route([SequenceWish(agreements=[0.0])], offers, round_s=0.04) == [()]
    assert route([], offers, round_s=0.04) == []
    with pytest.raises(InvalidArgument):
        route([SequenceWish(agreements=[float("nan")])], offers, round_s=0.04)
    with pytest.raises(InvalidArgument):
        route([SequenceWish(agreements=[0.5, 0.5])], offers, round_s=0.04)
    with pytest.raises(InvalidArgument):
        route([SequenceWish(agreements=[0.5])], offers, round_s=0.0, rules=RoutingRules())


def test_speed_ignores_hiccups_and_knows_crowding() -> None:
    speed = DrafterSpeed()
    assert not speed
    for index in range(60):
        num = 1 + index % 4
        speed.observe(num_sequences=num, elapsed_s=1.0 if index % 20 == 7 else 0.01 * (1.0 + 0.25 * (num - 1)))
    assert speed.step_s == pytest.approx(0.01, rel=0.05)
    assert speed.crowding == pytest.approx(0.25, rel=0.1)
    with pytest.raises(InvalidArgument):
        speed.observe(num_sequences=1, elapsed_s=0.0)
