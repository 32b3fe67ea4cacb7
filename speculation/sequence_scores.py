"""How every drafter does on one sequence, while it is being decoded.

CoSine (arXiv 2503.10325) keeps a score per request and drafter, made of the drafter's own generation probability and of
its alignment with what was verified, joined in a harmonic manner so that over-confidence is not rewarded. Its formula
is not known to us; the candidate form s = 2cd / (c + d) in our notes is ours, and taken literally it fails that very
aim: it rises with c, so a drafter gains by claiming more. The form here keeps the harmonic join and mends that:

    d = agreement: how often the drafter's choice was the token that was committed
    h = honesty:   1 - |mean confidence - mean agreement| over the tokens for which it stated a confidence
    s = 2dh / (d + h),   read back as an agreement:   s / (2 - s) = dh / (d + h - dh)

*Why over-confidence does not pay*: d does not depend on what is claimed, and s rises with h, which is largest exactly
when the claim equals the agreement. Then h = 1 and the score is d itself, so that it can be used as a rate. Claiming
less than the truth does not pay either: values are made of confidences, and what is under-valued is not sent.

*Free evidence* (HedgeSpec, 2510.20064): a drafter that only follows states no confidence, and its agreement counts the
same. Old evidence fades; the prior, in tokens' worth, never does, so a silent drafter drifts back to what is known of
it in general.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from contracts.errors import InvalidArgument
from contracts.types import DrafterId

__all__ = ["Agreement", "SequenceScores", "agreement_of", "joined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a whole sequence said about one drafter, unfaded: food for the tenant's expertise."""

    drafter: DrafterId
    agreement: float
    num_tokens: int


@dataclass(slots=True)
class _Score:
    prior: float
    num_faded: float = 0.0
    agreed_faded: float = 0.0
    num_claimed: float = 0.0
    claimed: float = 0.0
    agreed_claimed: float = 0.0
    num_tokens: int = 0
    agreed: float = 0.0


class SequenceScores:
    """See the module. After `memory_tokens` more, evidence weighs 1/e; `prior_tokens`: what the prior weighs."""

    def __init__(
        self, priors: Mapping[DrafterId, float], *, memory_tokens: float = 64.0, prior_tokens: float = 16.0
    ) -> None:
        if not (memory_tokens >= 1.0 and prior_tokens > 0.0):  # NaN fails this too
            raise InvalidArgument(
                f"scores have memory_tokens {memory_tokens} and prior_tokens {prior_tokens}; "
                "the first is 1 or more, the second above 0"
            )
        self._keep = math.exp(-1.0 / memory_tokens)
        self._prior_tokens = prior_tokens
        self._scores: dict[DrafterId, _Score] = {}
        for drafter, prior in priors.items():
            self.join(drafter, prior)

    def join(self, drafter: DrafterId, prior: float) -> None:
        """A drafter that is new in the fleet; nothing changes for one that is known."""
        _check(drafter, prior)
        self._scores.setdefault(drafter, _Score(prior))

    def leave(self, drafter: DrafterId) -> None:
        """It is gone; what it said is forgotten."""
        self._scores.pop(drafter, None)

    def drafted(self, drafter: DrafterId, *, confidence: float, chosen: bool) -> None:
        """A position where the target decided about the drafter's first choice, stated with this confidence.

        One call a position: runners-up are insurance, and would count as so many disagreements.
        """
        _check(drafter, confidence)
        score = self._of(drafter)
        agreed = float(chosen)
        self._agreed(score, agreed)
        score.num_claimed = score.num_claimed * self._keep + 1.0
        score.claimed = score.claimed * self._keep + confidence
        score.agreed_claimed = score.agreed_claimed * self._keep + agreed

    def followed(self, drafter: DrafterId, agreement: float) -> None:
        """A committed token that the drafter only scored while it caught up; see `agreement_of`."""
        _check(drafter, agreement)
        self._agreed(self._of(drafter), agreement)

    def score(self, drafter: DrafterId) -> float:
        """What it can be expected to agree on, less what its claims were off."""
        score = self._of(drafter)
        weight = self._prior_tokens
        agreement = (weight * score.prior + score.agreed_faded) / (weight + score.num_faded)
        # The prior stands here for claims that proved right, so that the first surprise is not taken for dishonesty.
        off = abs(score.claimed - score.agreed_claimed) / (weight + score.num_claimed)
        return joined(agreement, 1.0 - off)

    def num_tokens(self, drafter: DrafterId) -> float:
        """Faded number of this sequence's tokens that it was scored on: how well it is known here."""
        return self._of(drafter).num_faded

    def drafters(self) -> Iterator[DrafterId]:
        """In the order in which they joined."""
        return iter(self._scores)

    def agreements(self) -> list[Agreement]:
        """What to teach the tenant's expertise when the sequence ends (or now and then: `forget_agreements`)."""
        return [
            Agreement(drafter=drafter, agreement=score.agreed / score.num_tokens, num_tokens=score.num_tokens)
            for drafter, score in self._scores.items()
            if score.num_tokens > 0
        ]

    def forget_agreements(self) -> None:
        """They have been taught; scores stay."""
        for score in self._scores.values():
            score.num_tokens, score.agreed = 0, 0.0

    def _agreed(self, score: _Score, agreement: float) -> None:
        score.num_faded = score.num_faded * self._keep + 1.0
        score.agreed_faded = score.agreed_faded * self._keep + agreement
        score.num_tokens += 1
        score.agreed += agreement

    def _of(self, drafter: DrafterId) -> _Score:
        score = self._scores.get(drafter)
        if score is None:
            raise InvalidArgument(f"drafter {drafter} has no score here; known are {', '.join(self._scores) or 'none'}")
        return score


def agreement_of(*, matched: bool | None = None, logprob: float | None = None) -> float:
    """How much a follower agreed with a committed token: whether its choice, noise and all, would have been the same;
    where it did not make one, its probability of the token, which is the chance of that for an independent draw."""
    if matched is not None:
        return float(matched)
    if logprob is None or math.isnan(logprob):
        raise InvalidArgument(f"a followed token has matched {matched} and logprob {logprob}; one of them is needed")
    return math.exp(min(logprob, 0.0))  # rounding in float32 can leave a sure token a little above 0


def joined(agreement: float, honesty: float) -> float:
    """The harmonic mean of both, read back as an agreement; see the module.

    >>> joined(0.5, 1.0), round(joined(0.5, 0.6), 3)
    (0.5, 0.375)
    """
    product = agreement * honesty
    return product / (agreement + honesty - product) if product > 0.0 else 0.0


def _check(drafter: DrafterId, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:  # NaN fails this too
        raise InvalidArgument(f"drafter {drafter} has a rate of {rate}; it lies between 0 and 1")
