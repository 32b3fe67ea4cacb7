"""Token recycling: rows of the target's latest candidates, and a fixed tree over them."""

from __future__ import annotations

import itertools

import pytest

from contracts.types import ROOT, DrafterId
from tests.workers.drafters.rig import ONE, VOCAB_SIZE, A, paths, proposed, top_of
from workers.drafters.drafter import Commit, Opening
from workers.drafters.recycling import NUM_RANKS, RANK_CHANCES, Recycling, RecyclingMemory, tree_shape
from workers.drafters.text import Text


def drafter_on(tokens: list[int]) -> Recycling:
    drafter = Recycling(drafter=DrafterId("recycling"), vocab_size=VOCAB_SIZE)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=tokens)])
    return drafter


def test_a_row_holds_the_targets_latest_candidates() -> None:
    drafter = drafter_on([1])
    order = list(range(20, 20 + NUM_RANKS))
    drafter.commit([Commit(sequence=ONE, position=1, tokens=[20, 1], logprobs=(top_of(20, order), top_of(1)))])
    firsts = [node.token for node in proposed(drafter, ONE, 200) if node.parent == ROOT]
    assert firsts == order
    newer = list(range(40, 40 + NUM_RANKS))
    drafter.commit([Commit(sequence=ONE, position=3, tokens=[40, 1], logprobs=(top_of(40, newer), top_of(1)))])
    assert [node.token for node in proposed(drafter, ONE, 200) if node.parent == ROOT] == newer


def test_without_candidates_the_choice_moves_to_the_front() -> None:
    drafter = drafter_on([1, 5, 1, 6, 1, 7, 1, 5, 1])
    assert [node.token for node in proposed(drafter, ONE, 200) if node.parent == ROOT] == [5, 7, 6]


def test_rejected_candidates_are_proposed_again() -> None:
    """The point of the paper: what was second here may be first at the next place."""
    drafter = drafter_on([1])
    drafter.commit([Commit(sequence=ONE, position=1, tokens=[2, 1], logprobs=(top_of(2, [2, 3]), top_of(1)))])
    assert (3,) in paths(proposed(drafter, ONE, 10))


@pytest.mark.parametrize("num_nodes", [0, 1, 2, 7, 60, 200])
def test_the_shape_is_breadth_first_connected_and_favours_good_ranks(num_nodes: int) -> None:
    shape = tree_shape(num_nodes)
    assert len(shape) == len(set(shape)) == num_nodes
    depths: list[int] = []
    for index, (parent, rank) in enumerate(shape):
        assert ROOT <= parent < index
        assert rank == 0 or (parent, rank - 1) in shape  # a rank never without the better ones
        depths.append(0 if parent == ROOT else depths[parent] + 1)
    assert depths == sorted(depths)
    assert sum(RANK_CHANCES) < 1.0


def test_confidences_follow_how_often_a_rank_is_chosen() -> None:
    memory = RecyclingMemory(vocab_size=VOCAB_SIZE, max_bytes=2**20)
    before = memory.rank_confidences()
    text = Text(sequence=ONE, tenant=A, sampling=Opening(sequence=ONE, tenant=A, tokens=[]).sampling)
    # After 1 always the runner-up of the time before: 2, 3, 2, 3, ...
    text.tokens.extend(itertools.islice(itertools.cycle([1, 2, 1, 3]), 6000))
    memory.learn(text, 0, ())
    after = memory.rank_confidences()
    assert after[1] > before[1] + 0.2
    assert sum(after) <= 1.0 + 1e-9
    assert all(0.0 <= confidence <= 1.0 for confidence in after)
