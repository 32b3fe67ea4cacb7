"""The fleet as the router knows it: who is in it, how fast and how good, and who drafts for whom."""

from __future__ import annotations

import pytest

from contracts.errors import AlreadyExists, InvalidArgument, NotFound
from contracts.types import DrafterId, TenantId
from speculation.drafting import Drafting
from speculation.roster import Member, Roster

CODE, PROSE, LATE = DrafterId("code"), DrafterId("prose"), DrafterId("late")
A, B = TenantId("a"), TenantId("b")
ROUND_S = 0.02


def member(drafter: DrafterId, *, step_s: float = 1e-3, capacity: int = 8, link_s: float = 0.0) -> Member:
    return Member(drafter=drafter, has_logits=True, step_s=step_s, capacity=capacity, link_s=link_s)


def roster(*members: Member) -> Roster:
    fleet = Roster()
    for each in members or (member(CODE), member(PROSE)):
        fleet.join(each)
    return fleet


def opened(fleet: Roster, tokens: range, tenant: TenantId = A) -> Drafting:
    return fleet.open(tenant, list(tokens), temperature=0.0)


def teach(fleet: Roster, tokens: range, good: DrafterId, poor: DrafterId, tenant: TenantId = A) -> None:
    """Sequences on which one drafter was right and the other wrong."""
    for _ in range(20):
        drafting = opened(fleet, tokens, tenant)
        for _ in range(30):
            drafting.scores.drafted(good, confidence=0.9, chosen=True)
            drafting.scores.drafted(poor, confidence=0.5, chosen=False)
        fleet.learn(drafting)


def test_names_are_unique_and_may_come_back() -> None:
    fleet = roster()
    with pytest.raises(AlreadyExists, match="drafter code is in the fleet already"):
        fleet.join(member(CODE))
    fleet.leave(CODE)
    fleet.leave(CODE)
    assert [each.drafter for each in fleet.members] == [PROSE]
    assert CODE not in fleet
    fleet.join(member(CODE))
    assert [each.drafter for each in fleet.members] == [PROSE, CODE]


def test_who_is_paused_is_given_nothing_and_keeps_its_speed() -> None:
    fleet = roster(member(CODE, step_s=1e-3), member(PROSE, step_s=2e-3))
    drafting = opened(fleet, range(10))
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == [CODE]
    fleet.pause(CODE)
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == [PROSE]
    fleet.resume(CODE)
    drafting.drafters = ()
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == [CODE]
    assert fleet.step_s(CODE) == 1e-3


def test_a_prompt_is_routed_to_who_was_right_about_prompts_like_it() -> None:
    fleet = roster()
    teach(fleet, range(100, 140), CODE, PROSE)
    teach(fleet, range(500, 540), PROSE, CODE)
    code, prose = opened(fleet, range(110, 140)), opened(fleet, range(505, 540))
    fleet.assign([code, prose], round_s=ROUND_S)
    assert list(code.drafters) == [CODE]
    assert list(prose.drafters) == [PROSE]


def test_what_one_tenant_taught_is_no_other_tenants() -> None:
    fleet = roster()
    teach(fleet, range(100, 140), CODE, PROSE, A)
    ours, theirs = opened(fleet, range(100, 140), A), opened(fleet, range(100, 140), B)
    assert ours.scores.score(CODE) > 0.9
    assert theirs.scores.score(CODE) == theirs.scores.score(PROSE)
    assert len(fleet.expertise(B)) == 0


def test_learning_twice_teaches_once() -> None:
    fleet = roster()
    drafting = opened(fleet, range(100, 140))
    drafting.scores.drafted(CODE, confidence=0.9, chosen=True)
    fleet.learn(drafting)
    fleet.learn(drafting)
    assert [model.num_tokens for _, model in fleet.expertise(A).models()] == [1.0]
    assert drafting.scores.num_tokens(CODE) == 1.0  # the sequence still knows


def test_what_was_learned_outlives_a_leave() -> None:
    fleet = roster()
    teach(fleet, range(100, 140), CODE, PROSE)
    fleet.leave(CODE)
    fleet.join(member(CODE))
    assert opened(fleet, range(100, 140)).scores.score(CODE) > 0.9


def test_only_the_prompt_says_what_a_resumed_sequence_is_about() -> None:
    fleet = roster()
    tokens = [*range(100, 140), *range(500, 540)]
    resumed = fleet.open(A, tokens, temperature=0.0, num_prompt=40)
    assert (resumed.features == opened(fleet, range(100, 140)).features).all()
    assert resumed.tree.next_position == 80


def test_those_that_are_not_allowed_do_not_draft() -> None:
    fleet = roster()
    drafting = fleet.open(A, [1, 2, 3], temperature=0.0, allowed=frozenset({PROSE, LATE}))
    assert drafting.members == {PROSE}
    fleet.assign([drafting], round_s=ROUND_S, num_cooperating=2)
    assert list(drafting.drafters) == [PROSE]


def test_a_drafter_that_came_later_is_admitted_with_what_is_known_of_it() -> None:
    fleet = roster()
    teach(fleet, range(100, 140), CODE, PROSE)
    fleet.leave(CODE)
    drafting = opened(fleet, range(100, 140))
    assert drafting.members == {PROSE}
    with pytest.raises(NotFound, match=r"drafter code is not in the fleet; members are \['prose'\]"):
        fleet.admit(drafting, CODE)
    fleet.join(member(CODE))
    fleet.admit(drafting, CODE)
    assert drafting.scores.score(CODE) > 0.9
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == [CODE]


def test_one_that_left_the_fleet_is_not_assigned_again() -> None:
    fleet = roster()
    drafting = opened(fleet, range(10))
    fleet.leave(CODE)
    drafting.leave(CODE)
    fleet.assign([drafting], round_s=ROUND_S, num_cooperating=2)
    assert list(drafting.drafters) == [PROSE]
    fleet.leave(PROSE)
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == []
    fleet.assign([], round_s=ROUND_S)


def test_measured_speed_replaces_what_was_promised() -> None:
    fleet = roster(member(CODE, step_s=1e-3), member(PROSE, step_s=2e-3))
    drafting = opened(fleet, range(10))
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == [CODE]
    assert fleet.step_s(CODE) == 1e-3
    for _ in range(20):
        fleet.observe_step(CODE, num_sequences=1, elapsed_s=0.05)
    assert fleet.step_s(CODE) == 0.05
    fleet.assign([drafting], round_s=ROUND_S)
    assert list(drafting.drafters) == [PROSE]
    with pytest.raises(NotFound, match="drafter late is not in the fleet"):
        fleet.step_s(LATE)
    fleet.observe_step(LATE, num_sequences=1, elapsed_s=0.05)  # who has left is no news
    with pytest.raises(InvalidArgument):
        fleet.observe_step(CODE, num_sequences=0, elapsed_s=0.05)


def test_capacity_is_kept_and_companions_come_where_asked_for() -> None:
    fleet = roster(member(CODE, capacity=1), member(PROSE, capacity=8))
    draftings = [opened(fleet, range(10)) for _ in range(3)]
    fleet.assign(draftings, round_s=ROUND_S, num_cooperating=2)
    assert sum(CODE in drafting.drafters for drafting in draftings) <= 1
    assert all(PROSE in drafting.drafters for drafting in draftings)
