"""Many paths in one pass: each row of a tree equals its path run alone, and what is kept equals a fresh start."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import ROOT, SamplingParams, SequenceId, Verdict
from engine.engine import Engine
from engine.work import Draft, Drafted, Verify, Work
from tests.engine.conftest import ModelMaker
from tests.engine.rig import (
    GREEDY,
    Alone,
    Model,
    node,
    path_tokens,
    random_tokens,
    random_tree,
    same_bits,
    step_with_logits,
    verify_of,
)

A, B = SequenceId("a"), SequenceId("b")
SEEDS = st.integers(0, 2**32 - 1)
NOISY = SamplingParams(temperature=0.9, seed=11)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_each_path_of_a_tree_equals_the_path_alone(model_of: ModelMaker, dtype: str) -> None:
    model = model_of(dtype)
    alone = Alone(model, is_compiled=True)

    @settings(max_examples=12)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        prompt = random_tokens(rng, rng.choice([1, 14, 16, 33]))
        truth = alone.decode(prompt, NOISY, 6)
        nodes = random_tree(rng, rng.randrange(1, 24), truth, rightness=0.7)
        engine = model.engine()
        engine.open(A, prompt, NOISY)
        result, (logits,) = step_with_logits(engine, [verify_of(A, nodes)])
        for index in range(-1, len(nodes)):
            assert same_bits(logits[1 + index], alone.logits_after([*prompt, *path_tokens(nodes, index)]))
        verdict = result.outcomes[0]
        assert isinstance(verdict, Verdict)
        assert list(verdict.tokens) == truth[: len(verdict.tokens)] or len(verdict.tokens) > len(truth)
        assert [nodes[index][0] for index in verdict.accepted] == list(verdict.tokens[:-1])

    check()


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_tree_that_grows_and_is_rerooted_equals_a_fresh_sequence(model_of: ModelMaker, is_compiled: bool) -> None:
    model = model_of("bfloat16")
    alone = Alone(model, is_compiled=is_compiled)

    @settings(max_examples=12)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        engine = model.engine(is_compiled=is_compiled)
        tokens = random_tokens(rng, rng.choice([3, 13, 16, 30]))
        engine.open(A, tokens, GREEDY)
        tree: list[tuple[int, int]] = []
        for _ in range(rng.randrange(4, 9)):
            tree = grow(engine, alone, rng, tokens, tree)
            if rng.random() < 0.6:
                tokens, tree = commit_somewhere(engine, rng, tokens, tree)
        engine.close(A)
        engine.pool.check()
        assert engine.num_free_blocks == engine.pool.num_blocks

    check()


def grow(
    engine: Engine, alone: Alone, rng: random.Random, tokens: list[int], tree: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """One Draft step below any nodes; every new row must be what it is alone."""
    is_root_pending = engine.num_pending(A) > 0
    parents = [rng.randrange(-1, len(tree) + i) for i in range(rng.randrange(0 if is_root_pending else 1, 5))]
    new = [(rng.randrange(5, 320), parent) for parent in parents]
    result, (logits,) = step_with_logits(engine, [Draft(sequence=A, nodes=tuple(new))], num_top=3)
    outcome = result.outcomes[0]
    assert isinstance(outcome, Drafted)
    assert outcome.first_node == len(tree)
    grown = tree + new
    below = ([ROOT] if is_root_pending else []) + list(range(len(tree), len(grown)))
    assert [proposal.parent for proposal in outcome.proposals] == below
    for proposal, row, parent in zip(outcome.proposals, logits, below, strict=True):
        assert same_bits(row, alone.logits_after(tokens + path_tokens(grown, parent)))
        best = row.topk(3)
        assert [candidate.token for candidate in proposal.candidates] == best.indices.tolist()
        assert [candidate.value for candidate in proposal.candidates] == best.values.tolist()
    return grown


def commit_somewhere(
    engine: Engine, rng: random.Random, tokens: list[int], tree: list[tuple[int, int]]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Commits a path of the tree, sometimes with a token that leaves it; the rest of the tree must survive as said."""
    end = rng.randrange(-1, len(tree))
    path = path_tokens(tree, end)
    leaves_tree = not path or rng.random() < 0.3
    decided = [*path, 319] if leaves_tree else path
    if leaves_tree and (319, end) in tree:
        return tokens, tree
    survivors = engine.commit(A, decided)
    assert list(engine.tokens_of(A)) == tokens + decided
    # Of equal siblings the first is the committed one, so the node may be another than the one we started from.
    at = first_spelling(tree, decided)
    if at is None:
        assert survivors == {}
        assert engine.num_pending(A) == 1
        return tokens + decided, []
    kept = [index for index in range(len(tree)) if at in ancestors(tree, index)]
    assert survivors == {old: new for new, old in enumerate(kept)}
    assert engine.num_pending(A) == 0
    new_number = {at: ROOT, **survivors}
    return tokens + decided, [(tree[index][0], new_number[tree[index][1]]) for index in kept]


def first_spelling(tree: list[tuple[int, int]], tokens: list[int]) -> int | None:
    at = ROOT
    for token in tokens:
        found = [index for index, (said, parent) in enumerate(tree) if parent == at and said == token]
        if not found:
            return None
        at = found[0]
    return at


def ancestors(tree: list[tuple[int, int]], index: int) -> list[int]:
    """All nodes strictly above."""
    found = []
    while (index := tree[index][1]) != ROOT:
        found.append(index)
    return found


def test_run_ahead_below_the_accepted_path_is_kept(model: Model) -> None:
    alone = Alone(model, is_compiled=True)
    engine, prompt = model.engine(), [9, 8, 7]
    engine.open(A, prompt, GREEDY)
    engine.step([Draft(sequence=A, nodes=((10, ROOT), (20, ROOT), (21, 1), (22, 2), (23, 2)))])
    assert engine.commit(A, [20, 21]) == {3: 0, 4: 1}
    assert engine.num_pending(A) == 0
    _, (logits,) = step_with_logits(engine, [Draft(sequence=A, nodes=((30, 1), (31, ROOT)))])
    assert same_bits(logits[0], alone.logits_after([9, 8, 7, 20, 21, 23, 30]))
    assert same_bits(logits[1], alone.logits_after([9, 8, 7, 20, 21, 31]))


def test_a_commit_that_leaves_the_tree_keeps_the_path_and_drops_the_rest(model: Model) -> None:
    engine = model.engine()
    engine.open(A, [9, 8, 7], GREEDY)
    engine.step([Draft(sequence=A, nodes=((10, ROOT), (20, ROOT), (21, 1), (22, 2)))])
    assert engine.commit(A, [20, 21, 50]) == {}
    assert engine.num_pending(A) == 1
    _, (logits,) = step_with_logits(engine, [Verify(sequence=A)])
    assert same_bits(logits[0], Alone(model, is_compiled=True).logits_after([9, 8, 7, 20, 21, 50]))


def test_a_commit_of_nothing_changes_nothing(model: Model) -> None:
    engine = model.engine()
    engine.open(A, [9, 8, 7], GREEDY)
    engine.step([Draft(sequence=A, nodes=((10, ROOT), (20, ROOT)))])
    assert engine.commit(A, []) == {0: 0, 1: 1}
    assert engine.commit(A, [20]) == {}
    assert engine.num_pending(A) == 0


def test_what_is_wrong_with_a_tree_is_said_and_nothing_changes(model: Model) -> None:
    engine = model.engine(max_batch_rows=40)
    engine.open(A, list(range(5, 25)), GREEDY)
    engine.open(B, list(range(5, 25)), GREEDY)
    untouched = (engine.num_free_blocks, engine.num_pending(A))
    wrong: dict[str, list[Work]] = {
        r"node 1 .* parent 1": [Verify(sequence=A, nodes=(node(7), node(8, 1)))],
        r"node 0 .* parent 4": [Draft(sequence=A, nodes=((7, 4),))],
        r"node 0 .* parent -2": [Draft(sequence=A, nodes=((7, -2),))],
        r"node 1 .* token 320; the vocabulary has 320": [Verify(sequence=A, nodes=(node(7), node(320)))],
        r"node 0 .* token -1": [Draft(sequence=A, nodes=((-1, ROOT),))],
        r"sequence a appears twice": [Verify(sequence=A), Verify(sequence=A)],
        r"a step of 42 rows; max_batch_rows is 40": [Verify(sequence=A), verify_of(B, [(7, ROOT), (8, ROOT)])],
        r"hang below a token": [Verify(sequence=A, num_pending=3, nodes=(node(7),))],
    }
    for message, work in wrong.items():
        with pytest.raises(InvalidArgument, match=message):
            engine.step(work)
        assert (engine.num_free_blocks, engine.num_pending(A)) == untouched
    assert engine.step([verify_of(A, [(7, ROOT)]), Verify(sequence=B, num_pending=1)]).report.num_rows == 22
