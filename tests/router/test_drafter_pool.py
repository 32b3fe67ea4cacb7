"""Who drafts, who follows, and how following becomes drafting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import pytest

from contracts.clock import VirtualClock
from contracts.errors import InvalidArgument
from contracts.types import DrafterId, DraftNode, SamplingParams, SequenceId, TenantId, Verdict
from router.drafter_pool import DrafterPool
from router.modes import mode_parts
from router.orders import Draft, DrafterOrders, Drafts, Evidence
from router.sequence import RoutedSequence
from speculation.drafting import Drafting
from speculation.features import prompt_features
from speculation.fusion import FusionKind
from speculation.manner import Manner
from speculation.roster import Roster
from tests.router.offers import drafter_offer
from tests.router.rig import Collected

TENANT = TenantId("t")
GENERAL, EXPERT, LOOKUP = DrafterId("general"), DrafterId("expert"), DrafterId("lookup")


class Heard:
    """What one drafter was told; and what it is to do for the only sequence: None where it does not have it."""

    def __init__(
        self,
        name: DrafterId,
        *,
        has_logits: bool = True,
        prefill_s_per_token: float = 0.0,
        max_context: int = 512,
    ) -> None:
        self.offer = drafter_offer(
            name, has_logits=has_logits, prefill_s_per_token=prefill_s_per_token, max_context=max_context
        )
        self.num_wanted: int | None = None
        self.num_tokens = 0
        self.asked: tuple[int, ...] = ()
        """The path below which it is to draft."""

    def send(self, orders: DrafterOrders) -> None:
        self.num_wanted = None if orders.close else self.num_wanted
        for opened in orders.open:
            assert self.num_wanted is None, "opened twice"
            self.num_wanted, self.num_tokens = 0, len(opened.tokens)
        self.num_tokens += sum(len(news.tokens) for news in orders.commit)
        assert len(orders.want) <= 1, "one wish at a time"
        for wish in orders.want:
            assert wish.position == self.num_tokens
            self.num_wanted, self.asked = wish.num_nodes, wish.below


class Scene:
    def __init__(
        self,
        mode: str = "fleet",
        names: Sequence[DrafterId] = (GENERAL, EXPERT),
        fusion: FusionKind | None = None,
        *,
        prefill_s_per_token: float = 0.0,
        max_context: Mapping[DrafterId, int] = MappingProxyType({}),
        taught: Mapping[DrafterId, float] = MappingProxyType({}),
    ) -> None:
        """`taught`: how often drafters agreed on the prompt so far."""
        self.roster = Roster()
        for name, agreement in taught.items():
            for _ in range(4):
                self.roster.expertise(TENANT).learn(prompt_features(range(10)), name, agreement, 30)
        self.pool = DrafterPool(self.roster, VirtualClock(), order=[GENERAL], fusion=fusion)
        self.heard = {
            name: Heard(
                name,
                has_logits=name != LOOKUP,
                prefill_s_per_token=prefill_s_per_token,
                max_context=max_context.get(name, 512),
            )
            for name in names
        }
        self.sequence = RoutedSequence(
            id=SequenceId("1"),
            tenant=TENANT,
            tokens=list(range(10)),
            num_prompt=10,
            max_tokens=100,
            sampling=SamplingParams(),
            parts=mode_parts(mode),
            max_draft=5,
            drafting=self.roster.open(TENANT, list(range(10)), temperature=0.0),
            output=Collected(100),
        )
        for heard in self.heard.values():
            self.pool.join(heard.offer, heard, [self.sequence])
        self.route()

    def route(self) -> dict[DrafterId, int | None]:
        self.pool.route([self.sequence], round_s=0.02)
        self.pool.flush()
        return {name: heard.num_wanted for name, heard in self.heard.items()}

    def decide(self, guess: int, choice: int) -> None:
        """The drafter at work guesses a token, and the target says its own."""
        (drafter,) = self.sequence.drafting.drafters
        node = DraftNode(token=guess, parent=-1, confidence=0.8, drafter=drafter)
        self.sequence.drafting.take(drafter, [node])
        frontier = self.sequence.drafting.tree.frontier(1)
        self.sequence.drafting.tree.start(frontier)
        accepted = (0,) if guess == choice else ()
        tokens = (choice, 3) if accepted else (choice,)
        verdict = Verdict(
            sequence=self.sequence.id,
            epoch=self.sequence.epoch,
            position=self.sequence.position,
            accepted=accepted,
            tokens=tokens,
        )
        self.sequence.drafting.settle(verdict)
        self.sequence.tokens += tokens
        self.pool.decided(self.sequence, verdict)
        self.pool.flush()

    def says(self, drafter: DrafterId, *, num_tokens: int, num_agreed: int, epoch: int = 0) -> bool:
        evidence = Evidence(
            sequence=self.sequence.id,
            epoch=type(self.sequence.epoch)(epoch),
            num_tokens=num_tokens,
            num_agreed=num_agreed,
        )
        drafts = Drafts(drafts=(), steps=(), began_s=0.0, ended_s=0.0, evidence=(evidence,))
        return self.pool.take(drafter, drafts, {self.sequence.id: self.sequence})


def at_work(scene: Scene) -> tuple[DrafterId, DrafterId]:
    """Who drafts, and who of the two with a model does not."""
    (drafter,) = scene.sequence.drafting.drafters
    return drafter, EXPERT if drafter == GENERAL else GENERAL


def test_whoever_is_little_known_follows_and_takes_over_when_it_is_better() -> None:
    scene = Scene()
    first, other = at_work(scene)
    assert (scene.heard[first].num_wanted or 0) > 0
    assert scene.heard[other].num_wanted == 0, "it has the sequence and drafts nothing"
    for _ in range(6):
        scene.decide(7, 8)  # always wrong
    assert scene.heard[other].num_tokens == len(scene.sequence.tokens), "followers hear every token"
    assert not scene.says(other, num_tokens=6, num_agreed=0), "no better"
    for _ in range(6):
        scene.decide(7, 8)
    assert scene.says(other, num_tokens=6, num_agreed=6)
    scene.route()
    assert at_work(scene) == (other, first)
    assert (scene.heard[other].num_wanted or 0) > 0
    before = scene.pool.num_stale
    assert not scene.says(first, num_tokens=6, num_agreed=6, epoch=3), "of another epoch"
    assert scene.pool.num_stale == before + 1
    with pytest.raises(InvalidArgument, match="judges 6 tokens of sequence 1; there are 0"):
        scene.says(other, num_tokens=6, num_agreed=6)


def test_who_drafts_is_judged_by_its_drafts_and_not_by_what_it_says_of_itself() -> None:
    scene = Scene()
    drafter, other = at_work(scene)
    for _ in range(6):
        scene.decide(7, 8)  # always wrong
    score = scene.sequence.drafting.scores.score(drafter)
    assert not scene.says(drafter, num_tokens=4, num_agreed=4), "no offence, and no evidence"
    assert scene.sequence.drafting.scores.score(drafter) == score
    assert scene.says(other, num_tokens=3, num_agreed=3)
    scene.route()
    assert at_work(scene) == (other, drafter)
    before = scene.sequence.drafting.scores.num_tokens(other)
    scene.decide(7, 8)
    scene.says(other, num_tokens=4, num_agreed=4)
    known = scene.sequence.drafting.scores.num_tokens(other)
    assert known == pytest.approx(before + 4, abs=1.0), "one by its draft, and three that it had followed"


def test_nobody_follows_who_cannot_be_the_best_or_has_no_model_or_where_nobody_is_chosen() -> None:
    scene = Scene(names=(GENERAL, EXPERT, LOOKUP))
    assert scene.heard[LOOKUP].num_wanted != 0, "without a model it does not follow"
    assert at_work(Scene(taught={GENERAL: 0.75, EXPERT: 0.7}))[0] == GENERAL
    assert Scene(taught={GENERAL: 0.75, EXPERT: 0.7}).heard[EXPERT].num_wanted == 0, "it could be the best"
    assert Scene(taught={GENERAL: 0.75, EXPERT: 0.2}).heard[EXPERT].num_wanted is None
    assert 0 not in {heard.num_wanted for heard in Scene("pearl").heard.values()}
    scene.sequence.resting.now = True
    assert set(scene.route().values()) == {None}, "nobody has a sequence that rests"


def test_drafters_that_step_together_take_the_same_token_next(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(fusion=FusionKind.EVERY_STEP)
    drafting, tree = scene.sequence.drafting, scene.sequence.drafting.tree

    def both(draftings: Sequence[Drafting], **_: object) -> None:
        for each in draftings:
            each.drafters = (GENERAL, EXPERT)

    monkeypatch.setattr(scene.roster, "assign", both)
    scene.route()
    asked = [heard.asked for heard in scene.heard.values()]
    assert asked == [(), ()], "both are asked what comes next"

    def answers(drafter: DrafterId, below: tuple[int, ...], *candidates: tuple[int, float]) -> None:
        nodes = tuple(DraftNode(token=t, parent=-1, confidence=c, drafter=drafter) for t, c in candidates)
        draft = Draft(
            sequence=scene.sequence.id,
            epoch=scene.sequence.epoch,
            position=scene.sequence.position,
            below=below,
            nodes=nodes,
            is_last=True,
        )
        drafts = Drafts(drafts=(draft,), steps=(), began_s=0.0, ended_s=0.0)
        scene.pool.take(drafter, drafts, {scene.sequence.id: scene.sequence})  # the next question leaves with it

    answers(GENERAL, (), (5, 0.3), (6, 0.2))
    assert [heard.asked for heard in scene.heard.values()] == [(), ()], "the other is awaited"
    answers(EXPERT, (), (7, 0.9), (5, 0.05))
    assert [heard.asked for heard in scene.heard.values()] == [(7,), (7,)], "the surest token is everyone's next input"
    assert {tree.path(node.id) for node in tree.by_value()} == {(5,), (6,), (7,)}, "losers stay as siblings"
    answers(GENERAL, (), (9, 0.9))  # late: it is taken, and counts for nothing
    answers(GENERAL, (7,), (8, 0.6))
    assert scene.heard[GENERAL].asked == (7,)
    scene.pool.leave(EXPERT, [scene.sequence])  # nobody waits for those who left
    scene.pool.flush()
    assert scene.heard[GENERAL].asked == (7, 8)
    assert scene.sequence.awaits_drafts
    # The target goes along the path, and the question goes on behind it.
    drafting.tree.start(drafting.tree.frontier(0))
    verdict = Verdict(sequence=scene.sequence.id, epoch=scene.sequence.epoch, position=10, accepted=(), tokens=(7,))
    drafting.settle(verdict)
    scene.sequence.tokens.append(7)
    scene.pool.decided(scene.sequence, verdict)
    scene.pool.flush()
    assert scene.heard[GENERAL].asked == (8,)


def lone(mode: str = "fleet", *, prefill_s_per_token: float = 0.0) -> tuple[Scene, VirtualClock]:
    """A drafter without a model that works for the only sequence, and reports no steps."""
    scene = Scene(mode, names=[LOOKUP], prefill_s_per_token=prefill_s_per_token)
    clock = scene.pool.clock
    assert isinstance(clock, VirtualClock)
    assert scene.sequence.drafting.drafters == (LOOKUP,)
    return scene, clock


def is_given_work(scene: Scene) -> bool:
    scene.route()
    return scene.sequence.drafting.drafters == (LOOKUP,)


def says_nothing_new(scene: Scene) -> None:
    scene.pool.take(LOOKUP, Drafts(drafts=(), steps=(), began_s=0.0, ended_s=0.0), {})


def test_nobody_is_blamed_for_what_was_taken_back_before_it_could_answer() -> None:
    scene, clock = lone()
    scene.pool.end(scene.sequence)  # cancelled
    scene.pool.flush()
    clock.advance(600.0)
    scene.pool.flush()
    assert is_given_work(scene)
    scene.sequence.manner = Manner.PLAIN  # drafting does not pay at present
    scene.route()
    for _ in range(60):
        clock.advance(1.0)
        scene.pool.flush()
    scene.sequence.manner = Manner.AHEAD
    assert is_given_work(scene)
    assert scene.sequence.awaits_drafts


def test_what_is_told_of_a_drafter_is_told_since_it_joined_last() -> None:
    scene, clock = lone()
    clock.advance(100.0)
    scene.pool.leave(LOOKUP, [scene.sequence])
    scene.pool.join(scene.heard[LOOKUP].offer, scene.heard[LOOKUP], [scene.sequence])
    assert scene.pool.figures(LOOKUP).joined_s == clock.now_s()


MODES_THAT_DRAFT = pytest.mark.parametrize("mode", ["fleet", "fleet-routing", "pearl", "vanilla"])


@MODES_THAT_DRAFT
def test_who_was_silent_and_speaks_is_as_good_as_before(mode: str) -> None:
    scene, clock = lone(mode)
    clock.advance(1.5)
    scene.pool.flush()
    assert not is_given_work(scene)
    says_nothing_new(scene)
    assert is_given_work(scene)


@MODES_THAT_DRAFT
def test_who_is_silent_is_tried_again_after_pauses_that_double(mode: str) -> None:
    scene, clock = lone(mode)
    tried: list[int] = []
    for second in range(200):
        clock.advance(1.01)
        scene.pool.flush()
        had = scene.sequence.drafting.drafters
        if is_given_work(scene) and not had:
            tried.append(second)
            assert not scene.sequence.awaits_drafts, "nobody waits for it before it has spoken"
    pauses = [later - sooner for sooner, later in pairwise(tried)]
    assert len(pauses) >= 2
    assert all(later > 1.5 * sooner for sooner, later in pairwise(pauses))


@pytest.mark.parametrize("short", [GENERAL, EXPERT])
def test_who_cannot_hold_a_sequence_does_not_get_it(short: DrafterId) -> None:
    scene = Scene(max_context={short: 15})
    (drafter,) = scene.sequence.drafting.drafters
    assert drafter != short
    assert scene.heard[short].num_wanted is None, "nor does it follow"


def test_whoever_reads_a_long_prompt_is_not_silent() -> None:
    scene, clock = lone(prefill_s_per_token=0.5)  # of ten tokens
    clock.advance(6.0)
    scene.pool.flush()
    assert is_given_work(scene)
    clock.advance(6.0)
    scene.pool.flush()
    assert not is_given_work(scene)


def test_a_draft_of_a_drafter_that_only_follows_is_taken_all_the_same() -> None:
    """It was on its way when the wish changed."""
    scene = Scene()
    _, other = at_work(scene)
    node = DraftNode(token=5, parent=-1, confidence=0.5, drafter=other)
    draft = Draft(
        sequence=scene.sequence.id, epoch=scene.sequence.epoch, position=10, below=(), nodes=(node,), is_last=True
    )
    scene.pool.take(
        other, Drafts(drafts=(draft,), steps=(), began_s=0.0, ended_s=0.0), {scene.sequence.id: scene.sequence}
    )
    assert len(scene.sequence.drafting.tree) == 1
