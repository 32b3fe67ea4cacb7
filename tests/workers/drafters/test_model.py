"""The drafter that is a model says what its model would say, whatever it computed before and with whom."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.config import EngineConfig
from contracts.errors import AlreadyExists, InvalidArgument, NotFound
from contracts.types import DrafterId, DraftNode, SamplingParams, SequenceId, Verdict
from engine.load import load_engine
from engine.work import Verify
from tests.engine.checkpoints import write_checkpoint
from tests.workers.drafters.model_rig import GREEDY, NOISY, NUM_TOKENS, SAMPLINGS, Rig, Truth, model, random_tokens
from tests.workers.drafters.rig import ONE, TWO, A, B, chain, check_tree, paths
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.registry import Setup, make_drafter

SEEDS = st.integers(0, 2**32 - 1)


@dataclass
class Followed:
    """What a test knows of a sequence that a drafter follows."""

    name: SequenceId
    tokens: list[int]
    num_prompt: int
    sampling: SamplingParams
    tree: tuple[DraftNode, ...] = ()
    below: tuple[int, ...] = ()

    def known_paths(self) -> list[tuple[int, ...]]:
        return [(*self.below, *path) for path in paths(self.tree)]


def random_ask(rng: random.Random, followed: Followed) -> Ask:
    """Below the last token, below a place that was proposed, or below tokens that nobody proposed."""
    below: tuple[int, ...] = ()
    if rng.random() < 0.4 and followed.tree:
        below = rng.choice(followed.known_paths())
    if rng.random() < 0.2:
        below = (*below, *random_tokens(rng, rng.randrange(1, 3)))
    return Ask(
        sequence=followed.name,
        num_nodes=rng.randrange(0, 9),
        below=below,
        max_depth=rng.choice([None, None, 1, 3, 7]),
        max_children=rng.choice([None, None, 1, 2, 9]),
    )


def random_commit(rng: random.Random, followed: Followed) -> Commit:
    """Along a proposed path, beyond it, or nowhere near."""
    tokens: tuple[int, ...] = ()
    if rng.random() < 0.7 and followed.tree:
        tokens = rng.choice(followed.known_paths())
    if rng.random() < 0.5:
        tokens = (*tokens, *random_tokens(rng, rng.randrange(1, 4)))
    commit = Commit(sequence=followed.name, position=len(followed.tokens), tokens=tokens)
    followed.tokens += tokens
    if tokens:
        followed.tree = ()
    return commit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trees_are_those_of_a_search_that_computes_every_place_anew(dtype: str) -> None:
    truth = Truth(model(dtype), max_depth=5)

    @settings(max_examples=10)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        rig = Rig(
            model(dtype),
            max_batch_rows=rng.choice([3, 16, 512]),
            max_depth=5,
            max_expand=rng.choice([1, 2, 4]),
            max_known=rng.choice([2, 10, 256]),
        )
        all_followed: list[Followed] = []
        for index in range(rng.randrange(1, 4)):
            prompt = random_tokens(rng, rng.randrange(1, 40))
            followed = Followed(SequenceId(f"s{index}"), prompt, len(prompt), rng.choice(SAMPLINGS))
            rig.open(followed.name, prompt, followed.sampling)
            all_followed.append(followed)
        for _ in range(5):
            chosen = [rng.choice(all_followed) for _ in range(rng.randrange(1, 4))]  # one may be asked twice
            asks = [random_ask(rng, followed) for followed in chosen]
            for followed, ask, tree in zip(chosen, asks, rig.drafter.propose(asks), strict=True):
                check_tree(tree, ask.num_nodes, NUM_TOKENS)
                assert tree == truth.tree(followed.tokens, followed.sampling, ask, num_prompt=followed.num_prompt)
                followed.tree, followed.below = tree, ask.below
            rig.drafter.commit([random_commit(rng, followed) for followed in all_followed if rng.random() < 0.6])
        rig.drafter.close([followed.name for followed in all_followed])
        rig.engine.pool.check()
        assert rig.engine.num_free_blocks == rig.engine.pool.num_blocks

    check()


def test_the_truth_is_not_trivial() -> None:
    """Trees of the tests have depth and siblings, and requests differ in them."""
    truth = Truth(model())
    prompt = random_tokens(random.Random(1), 20)
    trees = [truth.tree(prompt, sampling, Ask(sequence=ONE, num_nodes=12)) for sampling in SAMPLINGS]
    assert len({tuple(paths(tree)) for tree in trees}) == len(SAMPLINGS)
    assert max(len(path) for tree in trees for path in paths(tree)) >= 4
    assert all(len(tree) == 12 for tree in trees)
    assert any(len(paths(tree)) - len(chain(tree)) >= 5 for tree in trees)


def test_many_sequences_at_once_are_the_same_as_one_by_one() -> None:
    rng = random.Random(2)
    together, alone = Rig(model(), max_batch_rows=40), Rig(model(), max_expand=1)
    names = [SequenceId(f"s{index}") for index in range(6)]
    for name, sampling in zip(names, SAMPLINGS, strict=False):
        prompt = random_tokens(rng, rng.randrange(1, 90))
        for rig in (together, alone):
            rig.open(name, prompt, sampling)
    trees = together.drafter.propose([Ask(sequence=name, num_nodes=10) for name in names])
    assert trees == [alone.ask(name, 10) for name in names]
    assert all(trees)
    assert max(report.num_rows for report in together.reports) == 40
    assert max(report.num_sequences for report in together.reports) >= 3
    assert len(together.reports) < len(alone.reports)


def test_places_that_are_soon_looked_at_share_a_step() -> None:
    prompt = random_tokens(random.Random(12), 20)
    num_steps = []
    trees = set()
    for max_expand in (1, 4):
        rig = Rig(model(), max_expand=max_expand)
        rig.open(ONE, prompt)
        trees.add(rig.ask(ONE, 16))
        num_steps.append(len(rig.reports))
        assert max(report.num_rows for report in rig.reports[1:]) == max_expand
    assert len(trees) == 1
    assert num_steps[1] <= 0.6 * num_steps[0]


def test_a_prompt_delays_nobody() -> None:
    """A drafter in the middle of a long prompt answers the others in the same steps."""
    rig = Rig(model(), max_batch_rows=8)
    rig.open(ONE, random_tokens(random.Random(3), 200))
    rig.open(TWO, random_tokens(random.Random(4), 4))
    search = rig.drafter.begin([Ask(sequence=ONE, num_nodes=4), Ask(sequence=TWO, num_nodes=4)])
    ended: list[int] = []
    while not search.is_done:
        for found in search.step():
            if found.is_last:
                ended.append(found.ask)
                if found.ask == 1:
                    assert len(rig.reports) <= 6
    assert ended == [1, 0]
    assert all(report.num_rows == 8 for report in rig.reports[:-6])


@pytest.mark.parametrize("sampling", [GREEDY, NOISY], ids=["greedy", "noisy"])
def test_of_a_drafter_that_is_the_target_the_best_path_is_accepted_whole(sampling: SamplingParams) -> None:
    rig, target = Rig(model()), model().engine()
    prompt = random_tokens(random.Random(6), 30)
    rig.open(ONE, prompt, sampling)
    target.open(ONE, prompt, sampling)
    num_tokens = len(prompt)
    for _ in range(8):
        tree = rig.ask(ONE, 8)
        best = chain(tree)
        assert len(best) >= 2
        (verdict,) = target.step([Verify(sequence=ONE, nodes=tree)]).outcomes
        assert isinstance(verdict, Verdict)
        assert verdict.tokens[:-1] == best
        rig.commit(ONE, num_tokens, verdict.tokens)
        num_tokens += len(verdict.tokens)
        assert all(rig.drafter.agreement(ONE))


def test_a_path_that_was_drafted_and_committed_costs_nothing_again() -> None:
    rig, truth = Rig(model()), Truth(model())
    prompt = random_tokens(random.Random(7), 25)
    rig.open(ONE, prompt, NOISY)
    tree = rig.ask(ONE, 10)
    deepest = max((path for path in paths(tree) if paths(tree).count(path) == 1), key=len)
    assert len(deepest) >= 3
    inner = deepest[:-1]  # has a child in the tree, so it was computed
    rig.reports.clear()
    assert rig.ask(ONE, 10) == tree
    assert rig.ask(ONE, 1, below=inner)
    rig.commit(ONE, len(prompt), inner[:1])
    rig.commit(ONE, len(prompt) + 1, inner[1:])
    assert rig.ask(ONE, 1) == truth.tree([*prompt, *inner], NOISY, Ask(sequence=ONE, num_nodes=1))
    assert rig.reports == []
    rig.commit(ONE, len(prompt) + len(inner), [5, 6])
    rig.ask(ONE, 1)
    assert [report.num_rows for report in rig.reports] == [2]


def test_a_run_ahead_path_is_computed_in_the_same_step() -> None:
    rig = Rig(model())
    prompt = random_tokens(random.Random(8), 10)
    rig.open(ONE, prompt)
    rig.ask(ONE, 1, below=(50, 51, 52))
    assert [report.num_rows for report in rig.reports] == [13]
    rig.ask(ONE, 1, below=(50, 51, 53))
    assert [report.num_rows for report in rig.reports] == [13, 1]


def test_penalties_tell_prompt_and_answer_apart() -> None:
    """Also where the answer began before the drafter was first asked."""
    rig, truth = Rig(model()), Truth(model())
    sampling = SamplingParams(frequency_penalty=-2.0)  # repetition is wished for
    ask = Ask(sequence=ONE, num_nodes=6)
    rig.open(ONE, [5, 6, 7], sampling)
    rig.commit(ONE, 3, [100] * 6)
    (tree,) = rig.drafter.propose([ask])
    tokens = [5, 6, 7, *[100] * 6]
    assert tree == truth.tree(tokens, sampling, ask, num_prompt=3)
    assert tree != truth.tree(tokens, sampling, ask, num_prompt=9)


def test_agreement_tells_how_the_model_would_have_chosen() -> None:
    rig = Rig(model())
    prompt = random_tokens(random.Random(9), 10)
    rig.open(ONE, prompt)
    rig.commit(ONE, 10, [7])
    assert rig.drafter.agreement(ONE) == ()  # it was never asked, and has nothing to compare with
    (first,) = rig.ask(ONE, 1)
    (second,) = rig.ask(ONE, 1, below=(first.token,))
    rig.commit(ONE, 11, [first.token, second.token + 1, 7])
    assert rig.drafter.agreement(ONE) == (True, False)  # of what comes after its mistake it said nothing
    assert rig.drafter.agreement(ONE) == ()
    with pytest.raises(NotFound):
        rig.drafter.agreement(TWO)


def test_what_is_refused_has_changed_nothing() -> None:
    rig, untouched = Rig(model()), Rig(model())
    prompt = random_tokens(random.Random(10), 40)
    for each in (rig, untouched):
        each.open(ONE, prompt, NOISY)
        each.ask(ONE, 6)
    num_free, drafter = rig.engine.num_free_blocks, rig.drafter
    good = Commit(sequence=ONE, position=40, tokens=[9, 8])
    for commits in (
        [good, Commit(sequence=TWO, position=0, tokens=[1])],
        [good, good],
        [Commit(sequence=ONE, position=39, tokens=[9])],
        [Commit(sequence=ONE, position=40, tokens=[9, NUM_TOKENS])],
    ):
        with pytest.raises((InvalidArgument, NotFound)):
            drafter.commit(commits)
    biased = SamplingParams(logit_bias={NUM_TOKENS: 1.0})
    allowed = SamplingParams(allowed_token_ids=(NUM_TOKENS,))
    fine = Opening(sequence=TWO, tenant=A, tokens=[1])
    for opening in (
        Opening(sequence=ONE, tenant=A, tokens=[1]),
        Opening(sequence=SequenceId("three"), tenant=A, tokens=[1, NUM_TOKENS]),
        Opening(sequence=SequenceId("three"), tenant=A, tokens=[1], sampling=biased),
        Opening(sequence=SequenceId("three"), tenant=A, tokens=[1], sampling=allowed),
    ):
        with pytest.raises((InvalidArgument, AlreadyExists)):
            drafter.open([fine, opening])
    for ask in (Ask(sequence=ONE, num_nodes=4, below=(NUM_TOKENS,)), Ask(sequence=TWO, num_nodes=4)):
        num_steps = len(rig.reports)
        with pytest.raises((InvalidArgument, NotFound)):
            drafter.propose([Ask(sequence=ONE, num_nodes=30), ask])
        assert len(rig.reports) == num_steps
    with pytest.raises(NotFound):
        drafter.close([ONE, TWO])
    assert drafter.sequences == {ONE}
    assert rig.engine.num_free_blocks == num_free
    for each in (rig, untouched):
        each.drafter.commit([good])
    assert rig.ask(ONE, 8) == untouched.ask(ONE, 8)
    with pytest.raises(InvalidArgument, match="width of a model drafter is 0"):
        Rig(model(), width=0)


def test_tenants_share_no_prefix() -> None:
    """The keys of one tenant's tokens are computed again for another's, and found again for its own."""
    rig = Rig(model())
    prompt = random_tokens(random.Random(11), 40)
    rows = []
    for name, tenant in ((ONE, A), (TWO, B), (SequenceId("three"), A)):
        rig.reports.clear()
        rig.drafter.open([Opening(sequence=name, tenant=tenant, tokens=prompt)])
        rig.ask(name, 1)
        rows.append(sum(report.num_rows for report in rig.reports))
    assert rows == [40, 40, 8]


def test_logits_that_are_no_numbers_say_nothing_and_harm_nobody() -> None:
    broken = model(seed=99)  # of this test alone
    broken.weights.final_norm.fill_(float("nan"))
    rig = Rig(broken)
    for name in (ONE, TWO):
        rig.open(name, [5, 6, 7])
    asks = [Ask(sequence=ONE, num_nodes=5), Ask(sequence=TWO, num_nodes=5, below=(9, 10))]
    assert rig.drafter.propose(asks) == [(), ()]
    rig.commit(ONE, 3, [8])
    rig.drafter.close([ONE, TWO])
    rig.engine.pool.check()
    assert rig.engine.num_free_blocks == rig.engine.pool.num_blocks


def test_a_sequence_without_tokens_has_nothing_to_go_on_from() -> None:
    rig = Rig(model())
    rig.open(ONE, [])
    assert rig.ask(ONE, 5) == ()
    rig.commit(ONE, 0, [20])
    assert rig.ask(ONE, 5) == Truth(model()).tree([20], GREEDY, Ask(sequence=ONE, num_nodes=5))


def test_the_registry_makes_one_from_a_loaded_engine(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    loaded = load_engine(EngineConfig(model=str(folder), device="cpu", num_threads=1, kv_cache_bytes=2**22))
    steps: list[object] = []
    setup = Setup(drafter=DrafterId("d"), vocab_size=NUM_TOKENS, engine=loaded, on_step=steps.append)
    drafter = make_drafter("model", setup)
    assert drafter.kind == "model"
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=[5, 6])])
    (tree,) = drafter.propose([Ask(sequence=ONE, num_nodes=3)])
    assert len(tree) == 3
    assert tree[0].drafter == "d"
    assert steps
    with pytest.raises(InvalidArgument, match="has no engine"):
        make_drafter("model", Setup(drafter=DrafterId("d"), vocab_size=NUM_TOKENS))
    with pytest.raises(InvalidArgument, match=r"vocab_size is 300, but .* has 320 tokens"):
        make_drafter("model", Setup(drafter=DrafterId("d"), vocab_size=300, engine=loaded))
    with pytest.raises(InvalidArgument, match=r"known kinds are .*model"):
        make_drafter("oracle", setup)


def test_kinds_without_a_model_start_without_torch() -> None:
    program = "import sys, workers.drafters.registry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=Path(__file__).resolve().parents[3])
