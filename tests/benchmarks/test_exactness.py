"""Promise 1 through the whole of it: whatever is drafted, fused, pruned, late or lost, the text is plain decoding's.

Hundreds of random cases on a tiny random model. Drafters know the plain text and spoil it more or less, so that drafts
are accepted and refused in every pattern; what they say is fused, cut, delayed and pruned at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from benchmarks.fleet import LocalFleet, Speculate
from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, DraftNode, SequenceId, TenantId, Verdict
from engine import settle
from engine.engine import Engine
from engine.executor import LayerHook
from engine.shared_noise import noise_of
from engine.work import Verify
from speculation.cost import CostTable
from speculation.frontier import Frontier
from speculation.fusion import FusionKind
from speculation.pruning import PruningGate, PruningPolicy
from speculation.roster import Member, Roster
from tests.benchmarks.spoilers import NUM_TOKENS, VOCAB_SIZE, Plain, RandomLook, Spoiler, Task, random_draft
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model
from workers.drafters.registry import KINDS, Setup, make_drafter
from workers.pruning import Pruner

NUM_CASES = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_checkpoint(tmp_path_factory.mktemp("exactness") / "model", "llama", num_hidden_layers=2)
    return Model.load(folder, "float32")


@pytest.fixture(scope="module")
def plain(model: Model) -> Plain:
    return Plain(model)


def decode_with_fleet(engine: Engine, fleet: LocalFleet, tasks: Sequence[Task]) -> Iterator[tuple[Task, list[int]]]:
    """The answers so far after each round, as benchmarks.generation makes them, for tasks that differ in sampling."""
    answers: dict[SequenceId, list[int]] = {}
    for task in tasks:
        engine.open(task.sequence, task.prompt, replace(task.sampling, num_logprobs=fleet.num_logprobs))
        fleet.open(task.sequence, task.prompt, task.sampling)
        answers[task.sequence] = []
    left = list(tasks)
    while left:
        depths = {task.sequence: NUM_TOKENS - len(answers[task.sequence]) - 1 for task in left}
        nodes = fleet.frontiers(depths, max_nodes=48)
        work = [Verify(sequence=sequence, nodes=nodes[sequence]) for sequence in depths]
        look = fleet.look(work)
        step = engine.step(work, hook=look)
        fleet.learn(work, step, look)
        for task, outcome in zip(list(left), step.outcomes, strict=True):
            assert isinstance(outcome, Verdict)
            answers[task.sequence] += outcome.tokens
            yield task, answers[task.sequence]
            if len(answers[task.sequence]) >= NUM_TOKENS:
                left.remove(task)
    for task in tasks:
        engine.close(task.sequence)
        fleet.close(task.sequence)


def a_fleet(rng: random.Random, engine: Engine, tasks: Sequence[Task], cost: CostTable) -> LocalFleet:
    """Spoilers and real drafters, in any mode, with or without a policy that prunes."""
    answers = {task.sequence: task for task in tasks}
    drafters = [
        Spoiler(f"spoiler {index}", answers, rng.choice([0.0, 0.5, 0.9, 1.0]), rng)
        for index in range(rng.randrange(1, 4))
    ]
    real = [
        make_drafter(kind, Setup(drafter=DrafterId(kind), vocab_size=VOCAB_SIZE, noise=noise_of))
        for kind in rng.sample(sorted(KINDS), rng.randrange(2))
    ]
    ranks = sorted((rng.choice([1, 3, 40, 10**6]) for _ in range(2)), reverse=True)
    layers = rng.choice([{}, {0: ranks[0]}, dict(enumerate(ranks))])
    pruner = None
    if layers:
        policy = PruningPolicy(layers, lowest=1, highest=10**6)
        gate = PruningGate(policy, num_layers=2, probe_every=rng.choice([1, 4]))
        pruner = Pruner(engine, policy, gate=gate)
    return LocalFleet(
        {each.drafter: each for each in drafters} | {DrafterId(each.kind): each for each in real},
        Speculate(
            mode=rng.choice(["vanilla", "tree", "fused"]),
            max_draft=rng.randrange(1, 12),
            routed=rng.random() < 0.3,
            fusion=rng.choice(list(FusionKind)),
            num_cooperating=rng.randrange(1, 4),
        ),
        max_rows=engine.limits.max_batch_rows,
        cost=cost,
        pruner=pruner,
    )


class Generous(CostTable):
    """Rows that cost next to nothing, so that whole trees are checked."""

    def __init__(self) -> None:
        super().__init__()
        for rows in (1, 64):
            self.add(rows, 64 * rows, 1e-3 + 1e-7 * rows)

    def add(self, num_rows: int, num_context: int, elapsed_s: float) -> None:
        if self.num_observed < 2:
            super().add(num_rows, num_context, elapsed_s)


def check_fleet_case(model: Model, plain: Plain, seed: int) -> int:
    """One case, compared after every round; the number of accepted tokens."""
    rng = random.Random(seed)
    engine, tasks = model.engine(), plain.tasks(rng, rng.randrange(1, 5))
    num_rounds = num_tokens = 0
    for task, answer in decode_with_fleet(engine, a_fleet(rng, engine, tasks, Generous()), tasks):
        assert answer == task.answer[: len(answer)]
        num_rounds += 1
    num_tokens = NUM_TOKENS * len(tasks)
    engine.pool.check()
    assert engine.num_free_blocks == engine.pool.num_blocks
    return num_tokens - num_rounds


def test_any_fleet_says_what_plain_decoding_says(model: Model, plain: Plain) -> None:
    num_accepted = sum(check_fleet_case(model, plain, seed) for seed in range(NUM_CASES))
    assert num_accepted > 4 * NUM_CASES  # drafts do settle tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A draft on its way."""

    due: int
    drafter: DrafterId
    nodes: list[DraftNode]
    position: int
    below: tuple[int, ...]


class LateSequence:
    """One sequence whose drafts come late, in the wrong order, twice, or from whoever has left."""

    def __init__(self, task: Task, roster: Roster, rng: random.Random) -> None:
        self.task, self._roster, self._rng = task, roster, rng
        self.drafting = roster.open(TenantId("t"), task.prompt, temperature=task.sampling.temperature)
        self.answer: list[int] = []
        self._letters: list[Letter] = []

    def draft(self, now: int) -> None:
        rng, tree = self._rng, self.drafting.tree
        for drafter in sorted(self.drafting.members):
            path = rng.choice([(), *(tree.path(node.id) for node in tree.by_value())])
            said = [*self.answer, *path]
            rest = self.task.answer[len(said) :] if said == self.task.answer[: len(said)] else []
            nodes = [
                DraftNode(token=token, parent=parent, confidence=confidence, drafter=drafter)
                for token, parent, confidence in random_draft(rng, rng.randrange(8), rest, 0.7)
            ]
            letter = Letter(
                due=now + rng.choice([0, 0, 1, 2, 4]),
                drafter=drafter,
                nodes=nodes,
                position=tree.next_position,
                below=path,
            )
            self._letters += [letter] * rng.choice([1, 1, 1, 2])
        self._deliver(now)

    def _deliver(self, now: int) -> None:
        due = [letter for letter in self._letters if letter.due <= now]
        self._letters = [letter for letter in self._letters if letter.due > now]
        self._rng.shuffle(due)
        for letter in due:
            if letter.drafter in self.drafting.members:
                self.drafting.take(letter.drafter, letter.nodes, position=letter.position, below=letter.below)

    def come_and_go(self) -> None:
        drafter = self._rng.choice([member.drafter for member in self._roster.members])
        if drafter in self.drafting.members:
            self.drafting.leave(drafter)
        else:
            self._roster.admit(self.drafting, drafter)

    def frontier(self) -> Frontier:
        """The best nodes, or any that are connected."""
        tree, rng = self.drafting.tree, self._rng
        if rng.random() < 0.5:
            return tree.frontier(rng.randrange(8))
        chosen: list[int] = []
        for node in tree.by_value():
            if (node.parent == tree.root or node.parent in chosen) and rng.random() < 0.7:
                chosen.append(node.id)
        return tree.frontier_of(chosen[:16])


def check_late_case(model: Model, plain: Plain, seed: int) -> int:
    """One case with late drafts and random pruning; the number of accepted tokens."""
    rng = random.Random(seed)
    engine, roster = model.engine(), Roster(max_nodes=rng.choice([4, 64]))
    for index in range(rng.randrange(1, 4)):
        roster.join(Member(drafter=DrafterId(f"drafter {index}"), has_logits=rng.random() < 0.5, step_s=1e-3))
    left = [LateSequence(task, roster, rng) for task in plain.tasks(rng, rng.randrange(1, 5))]
    for one in left:
        engine.open(one.task.sequence, one.task.prompt, one.task.sampling)
    num_accepted = now = 0
    while left:
        work = []
        for one in left:
            one.draft(now)
            if rng.random() < 0.1:
                one.come_and_go()
            one.drafting.tree.start(frontier := one.frontier())
            work.append(Verify(sequence=one.task.sequence, nodes=frontier.nodes))
            if rng.random() < 0.1:
                one.come_and_go()
        hook: LayerHook | None = RandomLook(rng, engine, work) if rng.random() < 0.5 else None
        for one, outcome in zip(list(left), engine.step(work, hook=hook).outcomes, strict=True):
            assert isinstance(outcome, Verdict)
            assert not one.drafting.settle(outcome).stale
            one.answer += outcome.tokens
            num_accepted += len(outcome.accepted)
            assert one.answer[:NUM_TOKENS] == one.task.answer[: len(one.answer)]
            if len(one.answer) >= NUM_TOKENS:
                left.remove(one)
                engine.close(one.task.sequence)
                roster.learn(one.drafting)
        now += 1
    return num_accepted


def test_late_stale_and_orphaned_drafts_change_nothing(model: Model, plain: Plain) -> None:
    num_accepted = sum(check_late_case(model, plain, seed) for seed in range(1000, 1000 + NUM_CASES))
    assert num_accepted > 4 * NUM_CASES


def any_child(choices: Sequence[int], tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
    """A wrong walk: where the target's choice is not there, it takes what is."""
    accepted, at = [], ROOT
    while children := [index for index, parent in enumerate(parents) if parent == at and choices[index + 1] >= 0]:
        at = next((child for child in children if tokens[child] == choices[at + 1]), children[0])
        accepted.append(at)
    return accepted


@pytest.mark.parametrize("check", [check_fleet_case, check_late_case])
def test_a_rule_that_accepts_what_was_not_chosen_is_found_out(
    model: Model, plain: Plain, check: Callable[[Model, Plain, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "walk", any_child)
    with pytest.raises(AssertionError):
        sum(check(model, plain, seed) for seed in range(20))


@pytest.mark.parametrize("confidence", [float("nan"), -0.1, 1.1, float("inf")])
def test_confidences_that_are_none_are_refused(confidence: float) -> None:
    with pytest.raises(InvalidArgument, match="it lies between 0 and 1"):
        DraftNode(token=1, parent=ROOT, confidence=confidence, drafter=DrafterId("x"))
