"""What a model drafter does when there is little room: in the cache, in the context, in its own memory."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.types import SequenceId
from tests.workers.drafters.model_rig import (
    GREEDY,
    MAX_CONTEXT,
    NOISY,
    NUM_TOKENS,
    SAMPLINGS,
    Rig,
    Truth,
    model,
    random_tokens,
)
from tests.workers.drafters.rig import ONE, TWO, check_tree, paths
from workers.drafters.drafter import Ask, Commit

NAMES = [SequenceId(f"s{index}") for index in range(6)]


def test_sequences_that_do_not_fit_all_at_once_take_turns() -> None:
    """Six sequences of five blocks each in a cache of twelve: their trees are what they are in a large one."""
    rng = random.Random(1)
    small, large = Rig(model(), num_blocks=12, max_batch_rows=64), Rig(model())
    lengths = {}
    for name, sampling in zip(NAMES, SAMPLINGS, strict=False):
        prompt = random_tokens(rng, 70)
        lengths[name] = len(prompt)
        for rig in (small, large):
            rig.open(name, prompt, sampling)
    for _ in range(2):
        asks = [Ask(sequence=name, num_nodes=6) for name in NAMES]
        trees = large.drafter.propose(asks)
        assert small.drafter.propose(asks) == trees
        assert [small.ask(name, 6) for name in reversed(NAMES)] == trees[::-1]
        for name, tree in zip(NAMES, trees, strict=True):
            for rig in (small, large):
                rig.commit(name, lengths[name], paths(tree)[-1])
            lengths[name] += len(paths(tree)[-1])
    small.drafter.close(NAMES)
    small.engine.pool.check()
    assert small.engine.num_free_blocks == 12


def num_rows_to_ask(rig: Rig, name: SequenceId) -> int:
    """Rows that a single new place takes: more than one where the cache lost what it hangs below."""
    rig.reports.clear()
    rig.ask(name, 1, below=(60,))
    return sum(report.num_rows for report in rig.reports)


def test_who_was_asked_longest_ago_makes_room() -> None:
    rng = random.Random(2)
    rig = Rig(model(), num_blocks=16)
    for name in NAMES[:3]:  # five blocks each
        rig.open(name, random_tokens(rng, 70))
        rig.ask(name, 1)
    rig.ask(NAMES[0], 1)
    rig.open(NAMES[3], random_tokens(rng, 30))  # two blocks
    rig.ask(NAMES[3], 1)
    assert num_rows_to_ask(rig, NAMES[0]) == 1
    assert num_rows_to_ask(rig, NAMES[2]) == 1
    assert num_rows_to_ask(rig, NAMES[1]) > 1


def test_trees_make_room_before_sequences() -> None:
    rng = random.Random(3)
    rig = Rig(model(), num_blocks=12)
    rig.open(NAMES[0], random_tokens(rng, 70))  # five blocks
    rig.ask(NAMES[0], 1)
    rig.open(NAMES[1], random_tokens(rng, 70))  # five blocks, and one for places out of order
    for token in (50, 51, 52):
        rig.ask(NAMES[1], 1, below=(token,))
    rig.open(NAMES[2], random_tokens(rng, 20))  # two blocks, and one is free
    assert rig.engine.num_free_blocks == 1
    rig.ask(NAMES[2], 1)
    assert num_rows_to_ask(rig, NAMES[0]) == 1


def test_a_sequence_makes_room_for_itself() -> None:
    """Its own places of earlier asks fill the cache: they go, and the tree is what it would be."""
    tokens = random_tokens(random.Random(4), 60)
    truth, rig = Truth(model()), Rig(model(), num_blocks=6)
    rig.open(ONE, tokens)
    for token in range(5, 60):
        ask = Ask(sequence=ONE, num_nodes=1, below=(token,))
        assert rig.drafter.propose([ask]) == [truth.tree(tokens, GREEDY, ask)]


def test_a_sequence_that_is_more_than_the_cache_has_no_tree_and_harms_nobody() -> None:
    rig = Rig(model(), num_blocks=8, max_batch_rows=40)
    rig.open(ONE, random_tokens(random.Random(3), 150))
    short = random_tokens(random.Random(4), 20)
    rig.open(TWO, short)
    asks = [Ask(sequence=ONE, num_nodes=5), Ask(sequence=TWO, num_nodes=5)]
    tree = Truth(model()).tree(short, GREEDY, asks[1])
    assert rig.drafter.propose(asks) == [(), tree]
    assert rig.ask(TWO, 1, below=(9,))
    rig.reports.clear()
    rig.commit(ONE, 150, [7, 8])
    assert rig.drafter.propose(asks) == [(), tree]
    assert rig.reports == []  # it is not tried again
    assert num_rows_to_ask(rig, TWO) == 1  # and takes nothing from the other
    rig.drafter.close([ONE, TWO])
    assert rig.engine.num_free_blocks == 8


def test_a_tree_without_room_is_shorter() -> None:
    """A sequence that all but fills the cache: what was found is told, each node as in the tree that has room."""
    tokens = random_tokens(random.Random(5), 62)
    truth, rig = Truth(model()), Rig(model(), num_blocks=4)
    rig.open(ONE, tokens, NOISY)
    tree = rig.ask(ONE, 24)
    check_tree(tree, 24, NUM_TOKENS)
    assert 4 <= len(tree) < 24
    for node, path in zip(tree, paths(tree), strict=True):
        assert (node.token, node.confidence) in truth.children((*tokens, *path[:-1]), NOISY, len(tokens))
    rig.commit(ONE, 62, [7])
    assert rig.ask(ONE, 1) == truth.tree([*tokens, 7], NOISY, Ask(sequence=ONE, num_nodes=1))
    rig.drafter.close([ONE])
    assert rig.engine.num_free_blocks == 4


def test_nothing_is_proposed_past_the_context() -> None:
    rig, truth = Rig(model()), Truth(model())
    tokens = random_tokens(random.Random(6), MAX_CONTEXT - 2)
    rig.open(ONE, tokens)
    rig.open(TWO, tokens[:5])
    ask = Ask(sequence=ONE, num_nodes=12)
    tree = rig.ask(ONE, 12)
    assert tree == truth.tree(tokens, GREEDY, ask)
    assert max(len(path) for path in paths(tree)) == 2
    assert all(len(path) == 1 for path in paths(rig.ask(ONE, 12, below=(9,))))
    assert rig.ask(ONE, 12, below=(9, 10)) == ()
    rig.commit(ONE, MAX_CONTEXT - 2, [9])
    assert all(len(path) == 1 for path in paths(rig.ask(ONE, 12)))
    rig.commit(ONE, MAX_CONTEXT - 1, [10])
    assert rig.ask(ONE, 12) == ()
    # A target may have a larger context, and goes on.
    rig.drafter.commit(
        [Commit(sequence=ONE, position=MAX_CONTEXT, tokens=[7, 8, 9]), Commit(sequence=TWO, position=5, tokens=[7])]
    )
    assert rig.ask(ONE, 12) == ()
    assert rig.ask(TWO, 12) == truth.tree([*tokens[:5], 7], GREEDY, Ask(sequence=TWO, num_nodes=12))
    rig.commit(ONE, MAX_CONTEXT + 3, [7])
    rig.drafter.close([ONE, TWO])
    rig.open(ONE, [*tokens, *tokens])  # and one may be too long from the start
    assert rig.ask(ONE, 12) == ()
    rig.drafter.close([ONE])
    assert rig.engine.num_free_blocks == rig.engine.pool.num_blocks


def test_what_a_sequence_knows_is_bounded() -> None:
    rig = Rig(model(), max_known=20)
    rig.open(ONE, random_tokens(random.Random(7), 20))
    most = 0
    for token in range(5, 60):
        rig.ask(ONE, 4, below=(token,))
        most = max(most, rig.engine.pool.num_blocks - rig.engine.num_free_blocks)
    assert most <= 6  # a sequence of 20 tokens and its tree of some 30 nodes
    rig.reports.clear()
    rig.ask(ONE, 1)
    assert rig.reports == []  # what comes next is never forgotten


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_happens_every_block_comes_back(seed: int) -> None:
    rng = random.Random(seed)
    num_blocks = rng.choice([2, 5, 9, 14])
    rig = Rig(model(), num_blocks=num_blocks, max_batch_rows=rng.choice([5, 40]), max_known=rng.choice([3, 256]))
    search = rig.drafter.begin()
    lengths: dict[SequenceId, int] = {}
    for _ in range(40):
        match rng.randrange(6):
            case 0 if len(lengths) < len(NAMES):
                name = next(name for name in NAMES if name not in lengths)
                lengths[name] = rng.randrange(0, 60)
                rig.open(name, random_tokens(rng, lengths[name]), rng.choice(SAMPLINGS))
            case 1 if lengths:
                asks = [
                    Ask(sequence=name, num_nodes=rng.randrange(8), below=tuple(random_tokens(rng, rng.randrange(3))))
                    for name in rng.sample(sorted(lengths), rng.randrange(1, len(lengths) + 1))
                ]
                for ask, tree in zip(asks, rig.drafter.propose(asks), strict=True):
                    check_tree(tree, ask.num_nodes, NUM_TOKENS)
            case 2 if lengths:
                name = rng.choice(sorted(lengths))
                (tree,) = rig.drafter.propose([Ask(sequence=name, num_nodes=4)])
                tokens = rng.choice(paths(tree)) if tree else (7,)
                rig.commit(name, lengths[name], tokens)
                lengths[name] += len(tokens)
            case 3 if lengths and rng.random() < 0.4:
                name = rng.choice(sorted(lengths))
                rig.drafter.close([name])
                del lengths[name]
            case 4 if lengths:
                search.add([Ask(sequence=rng.choice(sorted(lengths)), num_nodes=rng.randrange(8))])
            case _:
                search.step()
        rig.engine.pool.check()
    rig.drafter.close(sorted(lengths))
    rig.engine.pool.check()
    assert rig.engine.num_free_blocks == num_blocks
    while not search.is_done:
        assert all(found.is_last and not found.nodes for found in search.step())
