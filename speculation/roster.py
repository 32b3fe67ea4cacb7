"""The drafters of a fleet as the router knows them: what they are, how fast, how good at what; and who drafts for whom.

Speeds are measured for all; expertise is learned for each tenant apart, because what one tenant's text taught is never
another's; calibration is about drafters' honesty, holds no text, and is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.errors import AlreadyExists, NotFound
from contracts.types import DrafterId, TenantId
from speculation.calibration import Calibrator
from speculation.drafter_speed import DrafterSpeed
from speculation.drafting import Drafting
from speculation.expertise import Expertise
from speculation.features import prompt_features
from speculation.routing import DrafterOffer, RoutingRules, SequenceWish, route
from speculation.trials import tried_as

__all__ = ["Member", "Roster"]

_DOUBTS = 1.5  # standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A drafter as it introduces itself. `step_s` counts until steps were measured."""

    drafter: DrafterId
    has_logits: bool
    step_s: float
    capacity: int = 1024
    link_s: float = 0.0
    prefill_s_per_token: float = 0.0


@dataclass(slots=True)
class _Known:
    member: Member
    speed: DrafterSpeed = field(default_factory=DrafterSpeed)
    is_paused: bool = False


class Roster:
    """See the module."""

    def __init__(self, *, rules: RoutingRules | None = None, max_nodes: int = 256) -> None:
        self.calibrator = Calibrator()
        self.rules = rules or RoutingRules()
        self._max_nodes = max_nodes
        self._known: dict[DrafterId, _Known] = {}
        self._expertise: dict[TenantId, Expertise] = {}

    def __contains__(self, drafter: DrafterId) -> bool:
        return drafter in self._known

    @property
    def members(self) -> list[Member]:
        """In the order in which they joined."""
        return [known.member for known in self._known.values()]

    def join(self, member: Member) -> None:
        if member.drafter in self._known:
            raise AlreadyExists(f"drafter {member.drafter} is in the fleet already; names are unique")
        self._known[member.drafter] = _Known(member)

    def leave(self, drafter: DrafterId) -> None:
        """It is gone. What was learned about it stays, for it may come back; open draftings are told by themselves."""
        self._known.pop(drafter, None)

    def observe_step(self, drafter: DrafterId, *, num_sequences: int, elapsed_s: float) -> None:
        """A draft step as the drafter reports it; one whose drafter has left is not news."""
        if (known := self._known.get(drafter)) is not None:
            known.speed.observe(num_sequences=num_sequences, elapsed_s=elapsed_s)

    def pause(self, drafter: DrafterId) -> None:
        """Until it is resumed, sequences are given to others; what was measured of it stays as it is."""
        self._of(drafter).is_paused = True

    def resume(self, drafter: DrafterId) -> None:
        """Sequences may be given to it again."""
        self._of(drafter).is_paused = False

    def step_s(self, drafter: DrafterId) -> float:
        """How long one draft step of a member takes just now."""
        known = self._of(drafter)
        return self._offer(known.member, known.speed).step_s

    def expertise(self, tenant: TenantId) -> Expertise:
        """What a tenant's requests have taught."""
        return self._expertise.setdefault(tenant, Expertise())

    def learned(self) -> list[tuple[TenantId, Expertise]]:
        """All tenants that have taught something, in the order in which they came."""
        return list(self._expertise.items())

    def restore(self, tenant: TenantId, expertise: Expertise) -> None:
        """What a tenant had taught before."""
        self._expertise[tenant] = expertise

    def open(
        self,
        tenant: TenantId,
        tokens: Sequence[int],
        *,
        temperature: float,
        num_prompt: int | None = None,
        allowed: frozenset[DrafterId] | None = None,
    ) -> Drafting:
        """A sequence's drafting, with all members that are allowed.

        `num_prompt` tells the prompt, which says what the text is about, from what was answered before.
        """
        features = prompt_features(tokens[: len(tokens) if num_prompt is None else num_prompt])
        drafting = Drafting(
            tenant=tenant,
            tokens=tokens,
            temperature=temperature,
            features=features,
            calibrator=self.calibrator,
            max_nodes=self._max_nodes,
        )
        for drafter in self._known:
            if allowed is None or drafter in allowed:
                self.admit(drafting, drafter)
        return drafting

    def admit(self, drafting: Drafting, drafter: DrafterId) -> None:
        """Lets a member draft for an open sequence, with a prior from what the tenant's prompts like its taught."""
        member = self._of(drafter).member
        prior = self.expertise(drafting.tenant).agreement(drafting.features, drafter)
        drafting.join(drafter, prior, has_logits=member.has_logits)

    def could_be_best(self, drafting: Drafting, drafter: DrafterId) -> bool:
        """Whether so little is known of a member on prompts like this one that it may prove better than all others."""
        scores, expertise = drafting.scores, self.expertise(drafting.tenant)
        best = max(scores.score(each) for each in scores.drafters())
        return scores.score(drafter) + _DOUBTS * expertise.doubt(drafting.features, drafter) > best

    def learn(self, drafting: Drafting) -> None:
        """Teaches the tenant's expertise what a sequence said since the last time; when it ends, or now and then."""
        expertise, agreements = self.expertise(drafting.tenant), drafting.scores.agreements()
        for seen in agreements:
            expertise.learn(drafting.features, seen.drafter, seen.agreement, seen.num_tokens)
        if agreements:
            expertise.see(drafting.features)
        drafting.scores.forget_agreements()

    def assign(self, draftings: Sequence[Drafting], *, round_s: float, num_cooperating: int = 1) -> None:
        """Sets who drafts for each sequence, by accepted tokens per second under everyone's capacity."""
        offers = [self._offer(known.member, known.speed) for known in self._known.values()]
        wishes = [self._wish(drafting) for drafting in draftings]
        chosen = route(wishes, offers, round_s=round_s, num_cooperating=num_cooperating, rules=self.rules)
        for drafting, drafters in zip(draftings, chosen, strict=True):
            drafting.drafters = drafters

    # Inside

    @staticmethod
    def _offer(member: Member, speed: DrafterSpeed) -> DrafterOffer:
        """A member as it was measured, and as it introduced itself until then."""
        return DrafterOffer(
            drafter=member.drafter,
            step_s=speed.step_s if speed else member.step_s,
            crowding=speed.crowding if speed else 0.0,
            link_s=member.link_s,
            capacity=member.capacity,
            prefill_s_per_token=member.prefill_s_per_token,
        )

    def _wish(self, drafting: Drafting) -> SequenceWish:
        """Agreements in the order of the members; those that may not draft for it now are worth nothing to it."""
        scores, share, able = drafting.scores, drafting.accepted_length.trial_share, drafting.members
        return SequenceWish(
            agreements=[
                tried_as(scores.score(drafter), scores.num_tokens(drafter), share)
                if drafter in able and not known.is_paused
                else 0.0
                for drafter, known in self._known.items()
            ],
            current=frozenset(drafting.drafters),
            num_tokens=drafting.tree.next_position,
        )

    def _of(self, drafter: DrafterId) -> _Known:
        known = self._known.get(drafter)
        if known is None:
            raise NotFound(f"drafter {drafter} is not in the fleet; members are {sorted(self._known)}")
        return known
