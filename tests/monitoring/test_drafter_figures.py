"""Whose a node is where several said it, and how long each drafter takes after a verdict."""

from __future__ import annotations

import pytest

from contracts.clock import VirtualClock
from contracts.types import ROOT, DrafterId, DraftNode, SamplingParams, SequenceId, TenantId, Verdict
from router.drafter_pool import DrafterPool
from router.modes import mode_parts
from router.orders import Draft, DrafterOrders, Drafts
from router.sequence import RoutedSequence
from speculation.roster import Roster
from tests.router.offers import drafter_offer
from tests.router.rig import Collected

TENANT, SURE, UNSURE = TenantId("t"), DrafterId("sure"), DrafterId("unsure")


class Deaf:
    def send(self, orders: DrafterOrders) -> None:
        pass


class Scene:
    """Two drafters of one sequence."""

    def __init__(self) -> None:
        self.clock, roster, tokens = VirtualClock(), Roster(), list(range(10))
        self.pool = DrafterPool(roster, self.clock)
        self.sequence = RoutedSequence(
            id=SequenceId("1"),
            tenant=TENANT,
            tokens=tokens,
            num_prompt=len(tokens),
            max_tokens=100,
            sampling=SamplingParams(),
            parts=mode_parts("fleet-pricing"),
            max_draft=4,
            drafting=roster.open(TENANT, tokens, temperature=0.0),
            output=Collected(100),
        )
        for drafter in (SURE, UNSURE):
            self.pool.join(drafter_offer(drafter), Deaf(), [self.sequence])
        self.sequence.drafting.drafters = (SURE, UNSURE)

    def say(self, drafter: DrafterId, *tokens: int, confidence: float = 0.5) -> None:
        """A path below the root."""
        nodes = tuple(
            DraftNode(token=token, parent=index - 1 if index else ROOT, confidence=confidence, drafter=drafter)
            for index, token in enumerate(tokens)
        )
        draft = Draft(
            sequence=self.sequence.id,
            epoch=self.sequence.epoch,
            position=self.sequence.position,
            below=(),
            nodes=nodes,
            is_last=False,
        )
        drafts = Drafts(drafts=(draft,), steps=(), began_s=0.0, ended_s=0.0)
        self.pool.take(drafter, drafts, {self.sequence.id: self.sequence})

    def check(self, num_nodes: int, *tokens: int) -> None:
        """A round checks the best nodes, and the target decides these tokens."""
        tree = self.sequence.drafting.tree
        frontier = tree.frontier(num_nodes)
        tree.start(frontier)
        accepted: list[int] = []
        for token in tokens:
            parent = accepted[-1] if accepted else ROOT
            accepted += [
                index for index, node in enumerate(frontier.nodes) if (node.parent, node.token) == (parent, token)
            ]
        verdict = Verdict(
            sequence=self.sequence.id,
            epoch=self.sequence.epoch,
            position=self.sequence.position,
            accepted=tuple(accepted),
            tokens=tokens[: len(accepted) + 1],
        )
        said_by = [tuple(tree[node].said) for node in frontier.ids]
        self.sequence.drafting.settle(verdict)
        self.sequence.tokens += verdict.tokens
        self.pool.count(frontier.nodes, said_by, verdict.accepted)
        self.pool.decided(self.sequence, verdict)


def test_each_node_has_one_name_and_everyone_who_said_it() -> None:
    scene = Scene()
    scene.say(SURE, 21, 22, confidence=0.9)
    scene.say(UNSURE, 21, 33, confidence=0.2)
    scene.check(3, 21, 22, 40)
    sure, unsure = scene.pool.figures(SURE), scene.pool.figures(UNSURE)
    assert (sure.num_checked_tokens, sure.num_accepted_tokens) == (2, 2)
    assert (unsure.num_checked_tokens, unsure.num_accepted_tokens) == (2, 1)
    assert (sure.num_credited_drafts, sure.num_credited_tokens, dict(sure.credited_by_position)) == (1, 2, {0: 1, 1: 1})
    assert (unsure.num_credited_drafts, unsure.num_credited_tokens, dict(unsure.credited_by_position)) == (0, 1, {})


def test_time_to_the_first_node_of_use() -> None:
    scene = Scene()
    sure, unsure = scene.pool.figures(SURE), scene.pool.figures(UNSURE)
    scene.say(SURE, 21, 22, 23)
    scene.check(1, 21, 22)
    assert (sure.first_node_s.num, sure.first_node_s.sum) == (1, 0.0), "it had run ahead, and was right"
    scene.clock.advance(0.03)
    scene.say(UNSURE, 50)
    scene.clock.advance(0.5)
    scene.say(UNSURE, 51)
    assert (unsure.first_node_s.num, unsure.first_node_s.sum) == (1, 0.03), "the first counts"
    scene.check(0, 99)
    assert (sure.num_late, unsure.num_late) == (0, 0)
    scene.clock.advance(0.01)
    scene.say(SURE, 60)
    scene.check(0, 98)
    assert (sure.num_late, unsure.num_late) == (0, 1)
    assert sure.first_node_s.num == 2
    assert sure.first_node_s.sum == pytest.approx(0.01)
