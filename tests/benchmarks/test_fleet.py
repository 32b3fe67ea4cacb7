"""What a fleet in one process tells its drafters, and whom it asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.fleet import LocalFleet, Speculate
from benchmarks.generation import Generated, Prompt, generate
from contracts.config import EngineConfig
from contracts.types import ROOT, DrafterId, DraftNode, SamplingParams, SequenceId, StopParams, TokenLogprob
from engine.load import LoadedEngine, load_engine
from engine.work import Verify
from speculation.cost import CostTable
from speculation.fusion import FusionKind
from tests.engine.checkpoints import write_checkpoint
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.growth import Grown
from workers.drafters.text import Text
from workers.drafters.text_drafter import TextDrafter

PROMPTS = [Prompt(id=f"p{index}", prompt=text) for index, text in enumerate(["the target", "SELECT", "def step"])]
STOP = StopParams(max_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LoadedEngine:
    folder: Path = write_checkpoint(tmp_path_factory.mktemp("fleet") / "model", "llama", num_hidden_layers=1)
    return load_engine(EngineConfig(model=str(folder), dtype="float32", num_threads=1))


class Listener(TextDrafter):
    """Says always the same, and keeps what it hears."""

    kind: ClassVar[str] = "listener"

    def __init__(self, name: str, *, says: int) -> None:
        super().__init__(drafter=DrafterId(name), vocab_size=320)
        self.says = says
        self.heard: list[tuple[TokenLogprob, ...]] = []
        self.asks: list[Ask] = []
        self.openings: list[Opening] = []

    def open(self, openings: Sequence[Opening]) -> None:
        super().open(openings)
        self.openings += openings

    def propose(self, asks: Sequence[Ask]) -> list[tuple[DraftNode, ...]]:
        self.asks += asks
        return super().propose(asks)

    def commit(self, commits: Sequence[Commit]) -> None:
        super().commit(commits)
        self.heard += [commit.logprobs for commit in commits]

    def _opened(self, text: Text) -> None:
        pass

    def _grew(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        pass

    def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        return [Grown(self.says, ROOT, 0.5)]

    def _closed(self, text: Text) -> None:
        pass


class Learner(Listener):
    num_logprobs: ClassVar[int] = 5


def flat(count: int = 64) -> CostTable:
    """Rows that cost nothing, so that what is drafted is checked."""
    cost = CostTable()
    cost.add(1, 1, 1e-2)
    cost.add(count, count * 512, 1.001e-2)
    return cost


def run(target: LoadedEngine, fleet: LocalFleet, *, num_together: int = 1) -> list[Generated]:
    return generate(target, PROMPTS, SamplingParams(), STOP, num_together=num_together, fleet=fleet)[0]


def test_who_learns_from_candidates_is_given_them_and_with_it_everyone(target: LoadedEngine) -> None:
    learner, other = Learner("learner", says=7), Listener("other", says=8)
    drafters = {each.drafter: each for each in (learner, other)}
    run(target, LocalFleet(drafters, Speculate(mode="fused"), max_rows=64, cost=flat()))
    assert len(learner.heard) > 20
    for each in (*learner.heard, *other.heard):
        assert [len(logprob.top) for logprob in each] == [5] * len(each) != []
    # Only verdicts carry them: what a sequence is opened with at a drafter is what the client asked for.
    assert all(opening.sampling.num_logprobs == 0 for opening in learner.openings)
    alone = Listener("other", says=8)
    run(target, LocalFleet({alone.drafter: alone}, Speculate(mode="tree"), max_rows=64, cost=flat()))
    assert set(alone.heard) == {()}


def test_vanilla_asks_for_a_chain_and_never_past_the_end(target: LoadedEngine) -> None:
    one, two = Listener("one", says=7), Listener("two", says=8)
    fleet = LocalFleet(
        {each.drafter: each for each in (one, two)}, Speculate(mode="vanilla", max_draft=6), max_rows=64, cost=flat()
    )
    answers = run(target, fleet)
    assert two.asks == []
    assert all(ask.max_children == 1 and ask.num_nodes == ask.max_depth for ask in one.asks)
    # The last token comes of itself, so the depths go down to one, and a round without drafts ends the answer.
    assert [ask.max_depth for ask in one.asks][-4:] == [4, 3, 2, 1]
    assert max(ask.max_depth or 0 for ask in one.asks) == 6
    assert sum(len(answer.token_ids) for answer in answers) == 60
    assert fleet.figures[one.drafter].num_rounds == len(one.asks)
    assert fleet.figures[two.drafter].num_rounds == 0


def test_every_step_fusion_asks_all_below_the_same_tokens(target: LoadedEngine) -> None:
    one, two = Listener("one", says=7), Listener("two", says=8)
    how = Speculate(mode="fused", max_draft=3)
    fleet = LocalFleet({each.drafter: each for each in (one, two)}, how, max_rows=64, cost=flat())
    run(target, fleet)
    assert all(ask.below == () for ask in one.asks)
    one, two = Listener("one", says=7), Listener("two", says=8)
    how = Speculate(mode="fused", max_draft=3, fusion=FusionKind.EVERY_STEP)
    run(target, LocalFleet({each.drafter: each for each in (one, two)}, how, max_rows=64, cost=flat()))
    assert [(ask.sequence, ask.below) for ask in one.asks] == [(ask.sequence, ask.below) for ask in two.asks]
    assert {len(ask.below) for ask in one.asks} == {0, 1, 2}


def test_routing_leaves_who_is_always_wrong_for_who_is_right(target: LoadedEngine) -> None:
    class Oracle(Listener):
        def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
            said = [*text.tokens[text.num_prompt :], *below]
            rest = answers[text.sequence.partition(":")[2]][len(said) :][:num_nodes]
            return [Grown(token, index - 1, 0.9) for index, token in enumerate(rest)]

    plain, _ = generate(target, PROMPTS, SamplingParams(), STOP)
    answers = {each.id: each.token_ids for each in plain}
    never = next(token for token in range(320) if not any(token in said for said in answers.values()))
    wrong, right = Listener("a", says=never), Oracle("b", says=0)
    drafters = {each.drafter: each for each in (wrong, right)}
    fleet = LocalFleet(drafters, Speculate(mode="tree", routed=True, max_draft=4), max_rows=64, cost=flat())
    assert [each.token_ids for each in run(target, fleet)] == [each.token_ids for each in plain]
    figures = fleet.figures
    assert figures[right.drafter].num_accepted > 20
    assert figures[wrong.drafter].num_accepted == 0
    assert figures[right.drafter].num_rounds > figures[wrong.drafter].num_rounds


def test_one_that_comes_late_knows_the_answer_from_the_prompt(target: LoadedEngine) -> None:
    """Penalties count what was answered, so a drafter must know where that begins."""
    first, late = Listener("first", says=7), Listener("late", says=8)
    fleet = LocalFleet({each.drafter: each for each in (first, late)}, Speculate(mode="tree"), max_rows=64, cost=flat())
    name, prompt = SequenceId("s"), [5, 6, 7]
    target.engine.open(name, prompt, SamplingParams())
    fleet.open(name, prompt, SamplingParams())
    for number in range(4):
        work = [Verify(sequence=name, nodes=fleet.frontiers({name: 3}, max_nodes=8)[name])]
        fleet.learn(work, target.engine.step(work), None)
        if number == 1:
            fleet._sequences[name].drafting.drafters = (late.drafter,)
    assert [tuple(opening.tokens) for opening in late.openings] == [(5, 6, 7)]
    assert late._text(name).tokens.tolist() == first._text(name).tokens.tolist() == [*target.engine.tokens_of(name)]
    target.engine.close(name)


def test_all_is_closed_in_the_end(target: LoadedEngine) -> None:
    one, two = Listener("one", says=7), Learner("two", says=8)
    drafters = {each.drafter: each for each in (one, two)}
    run(target, LocalFleet(drafters, Speculate(mode="fused"), max_rows=64, cost=flat()), num_together=2)
    assert one.sequences == two.sequences == frozenset()
    assert target.engine.num_free_blocks == target.engine.pool.num_blocks
