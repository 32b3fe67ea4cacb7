"""Fusion: how several drafters of one sequence become one tree. After CoSine (arXiv 2503.10325).

Every-step fusion (`fuse_step`): drafters step together; after each step the candidate of highest calibrated confidence
becomes the fused token, which all of them take as their next input. Losing candidates stay in the tree as siblings.
Free-running merge (`Agreement`): drafters run at their own pace and their trees are united by path; where several said
the same node, their agreement raises its confidence. `choose_kind` says which of the two pays.

Why neither can change what the target says: a fused token is a *proposal*, a function of what drafters said. It is not
a sample from any drafter's distribution, and must never be put to a test against one (accept with target_probs /
draft_probs): picking the most confident of several samples is a choice that such a test does not know of, and biases
the output (total variation 0.28 in a toy case). It may be checked as a point mass, or by the house's rule, where the
target picks by its own logits and the shared noise and a draft only says what is worth computing. CoSine's own numbers
are greedy, where the difference does not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from contracts.errors import InvalidArgument
from contracts.types import DrafterId

__all__ = [
    "Agreement",
    "Combine",
    "FusedCandidate",
    "FusionKind",
    "FusionMeasures",
    "StepProposal",
    "choose_kind",
    "expected_committed",
    "fuse_step",
    "highest",
    "voice_weight",
]

Combine = Callable[[Mapping[DrafterId, float]], float]
"""One confidence from those of all drafters that said a node. It must not depend on their order."""

_SCORES_DIFFER = 0.05


def highest(confidence_of: Mapping[DrafterId, float]) -> float:
    """The most confident alone counts: CoSine's rule for a step."""
    return max(confidence_of.values())


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement raises confidence: one minus the product of the complements, weighted by expertise.

    With confidences c_i and weights w_i in [0, 1] (1 where none is given: the voice counts whole):

        fused = 1 - prod_i (1 - w_i * c_i)

    All weights 1: 1 - prod(1 - c_i), the chance that at least one of independent guesses is right; one drafter: its own
    c. Each factor falls in every c_i and every w_i, so the result never falls when a confidence or a weight rises or a
    drafter joins, and is at least the largest w_i * c_i. The factors are multiplied in the order of drafter names: bit
    for bit the same result in whatever order drafters spoke.

    Why a lone voice is weighted too: what a drafter says is calibrated over all that it ever said, and of two who draft
    for one sequence the one that knows its subject less is the worse there than on average. Weights come from
    `voice_weight`. Independence is generous, because drafters share training data and the noise; what is too much makes
    the budget too generous, never the output wrong.

    >>> round(Agreement()({DrafterId("code"): 0.5, DrafterId("prose"): 0.6}), 3)
    0.8
    """

    weights: Mapping[DrafterId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for drafter, weight in self.weights.items():
            if not 0.0 <= weight <= 1.0:
                raise InvalidArgument(f"expertise weight of {drafter} is {weight}; it lies between 0 and 1")

    def __call__(self, confidence_of: Mapping[DrafterId, float]) -> float:
        weighted = [self.weights.get(drafter, 1.0) * confidence_of[drafter] for drafter in sorted(confidence_of)]
        if len(weighted) == 1:
            return weighted[0]  # exactly, where the formula would round
        rest = 1.0
        for confidence in weighted:
            rest *= 1.0 - confidence
        # The formula is never below the largest; its rounding may be.
        return max(1.0 - rest, *weighted, 0.0)


def voice_weight(score: float, best: float) -> float:
    """How much one of several drafters of a sequence counts, by what it and the best of them can be expected to agree.

    As much as the chance that it is the better one here after all: 1 where their scores are equal, and a quarter where
    they differ by a tenth, which is about as exact as scores are:

        weight = 2 / (1 + exp((best - score) / 0.05))

    Nothing more is due to it. Found on recorded requests: where a specialist and a generalist both spoke, what the
    worse of them alone said was chosen far less often than its own calibration claims, for the silence of the better
    one about it is evidence too; and what both said is as good as the better one's word.

    >>> voice_weight(0.7, 0.7), round(voice_weight(0.6, 0.7), 2)
    (1.0, 0.24)
    """
    return 2.0 / (1.0 + math.exp(max(best - score, 0.0) / _SCORES_DIFFER))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProposal:
    """One drafter's candidates for the next position, as (token, calibrated confidence), in any order."""

    drafter: DrafterId
    candidates: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedCandidate:
    """A token that at least one drafter proposed, with what each of them said."""

    token: int
    confidence: float
    confidence_of: Mapping[DrafterId, float]


def fuse_step(proposals: Sequence[StepProposal], combine: Combine = highest) -> tuple[FusedCandidate, ...]:
    """The candidates of a step, best first: the first is the fused token, the others stay in the tree as siblings.

    All proposals are for the same position of the same path. With `highest` this is CoSine's rule; with an
    `Agreement`, two drafters that agree can outvote a louder third. Of equals the smaller token id comes first:
    everyone who knows the proposals, in whatever order, picks the same token. Empty when nobody proposed anything.
    """
    said: dict[int, dict[DrafterId, float]] = {}
    for proposal in proposals:
        for token, confidence in proposal.candidates:
            if not 0.0 <= confidence <= 1.0:
                raise InvalidArgument(
                    f"confidence of token {token} by {proposal.drafter} is {confidence}; it lies between 0 and 1"
                )
            of_token = said.setdefault(token, {})
            of_token[proposal.drafter] = max(confidence, of_token.get(proposal.drafter, 0.0))
    fused = [FusedCandidate(token=token, confidence=combine(each), confidence_of=each) for token, each in said.items()]
    return tuple(sorted(fused, key=lambda candidate: (-candidate.confidence, candidate.token)))


class FusionKind(Enum):
    """How the drafters of a sequence work together."""

    EVERY_STEP = "every_step"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionMeasures:
    """What was measured about the drafters of one sequence.

    An acceptance is the chance that the tree holds the target's next token, given that it held the one before, with
    drafters working in that way; their difference is the gain of fusing.
    """

    step_s: float
    """One draft step of the slowest of them."""
    link_s: float
    """Round trip between the router and the farthest of them."""
    round_s: float
    """Time from one verdict to the next, in which drafting is free."""
    every_step_acceptance: float
    merged_acceptance: float
    max_depth: int

    def __post_init__(self) -> None:
        for name, value in (("step_s", self.step_s), ("link_s", self.link_s), ("round_s", self.round_s)):
            if not (math.isfinite(value) and value >= 0.0):
                raise InvalidArgument(f"fusion measure {name} is {value}; it is a number of seconds from 0")
        for value in (self.every_step_acceptance, self.merged_acceptance):
            if not 0.0 <= value <= 1.0:
                raise InvalidArgument(f"acceptance is {value}; it lies between 0 and 1")
        if self.max_depth < 0:
            raise InvalidArgument(f"max_depth is {self.max_depth}; it is 0 or more")


def expected_committed(measures: FusionMeasures, kind: FusionKind) -> float:
    """Tokens that a round commits when drafters work in this way, the target's own included.

    Fused drafters pay the round trip for every step (candidates up, fused token down), free-running ones once (verdict
    down, nodes up). n steps with acceptance a commit 1 + a + ... + a^n tokens; n may be a fraction, so that the figure
    moves smoothly with the times. But where not even one step is through in time, none is.
    """
    if kind is FusionKind.EVERY_STEP:
        acceptance, each_s, drafting_s = (
            measures.every_step_acceptance,
            measures.step_s + measures.link_s,
            measures.round_s,
        )
    else:
        acceptance, each_s, drafting_s = (
            measures.merged_acceptance,
            measures.step_s,
            max(measures.round_s - measures.link_s, 0.0),
        )
    # Compared by multiplication: steps that take almost no time are as many as allowed, without dividing by it.
    in_time = drafting_s >= each_s * measures.max_depth
    num_steps = float(measures.max_depth) if in_time else drafting_s / each_s
    if num_steps < 1.0:
        return 1.0
    if acceptance == 1.0:
        return 1.0 + num_steps
    return (1.0 - math.pow(acceptance, num_steps + 1.0)) / (1.0 - acceptance)


def choose_kind(
    measures: FusionMeasures, current: FusionKind, *, fixed: FusionKind | None = None, min_gain: float = 0.05
) -> FusionKind:
    """Which kind of fusion to use from now on; `fixed` is an operator's own choice.

    The other kind must be better by the share `min_gain`: measurements wander, and a change costs drafters the steps
    that they are in the middle of.
    """
    if fixed is not None:
        return fixed
    other = FusionKind.MERGED if current is FusionKind.EVERY_STEP else FusionKind.EVERY_STEP
    better = expected_committed(measures, other) > expected_committed(measures, current) * (1.0 + min_gain)
    return other if better else current
