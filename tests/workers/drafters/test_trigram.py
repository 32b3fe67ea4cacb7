"""The adaptive tri-gram table: pairs before single tokens, recent before old, target's candidates before counts."""

from __future__ import annotations

import math

from contracts.types import ROOT, DrafterId, TokenLogprob
from tests.workers.drafters.rig import ONE, VOCAB_SIZE, A, chain, proposed, say
from workers.drafters.drafter import Commit, Opening
from workers.drafters.trigram import MAX_TOTAL, Trigram, TrigramMemory


def drafter_on(tokens: list[int], exploration: float = 1.0) -> Trigram:
    drafter = Trigram(drafter=DrafterId("trigram"), vocab_size=VOCAB_SIZE, exploration=exploration)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=tokens)])
    return drafter


def firsts(drafter: Trigram, num_nodes: int = 40) -> dict[int, float]:
    return {node.token: node.confidence for node in proposed(drafter, ONE, num_nodes) if node.parent == ROOT}


def test_a_pair_says_more_than_its_last_token() -> None:
    found = firsts(drafter_on([1, 2, 50, 3, 2, 60, 3, 2, 60, 3, 2, 60, 9, 1, 2]))
    assert max(found, key=found.__getitem__) == 50
    assert 60 in found  # the shorter context is not silent


def test_the_table_follows_a_target_that_changes() -> None:
    drafter = drafter_on([1, 2, 50] * 100)
    say(drafter, ONE, 300, [1, 2, 60] * 20)
    say(drafter, ONE, 360, [1, 2])
    found = firsts(drafter)
    assert max(found, key=found.__getitem__) == 60


def test_the_targets_candidates_count_by_their_probability() -> None:
    drafter = drafter_on([1])
    thought = TokenLogprob(token=30, logprob=math.log(0.3), top=((31, math.log(0.6)), (30, math.log(0.3))))
    drafter.commit(
        [Commit(sequence=ONE, position=1, tokens=[30, 1], logprobs=(thought, TokenLogprob(token=1, logprob=-1.0)))]
    )
    found = firsts(drafter)
    assert found[31] > found[30] > 0.0


def test_exploration_gives_alternatives_their_nodes() -> None:
    text = ([1, 2, 50, 51, 52, 53] * 6 + [1, 2, 60, 61] + [1, 2, 70, 71]) * 3 + [9, 1, 2]
    assert len(firsts(drafter_on(text, exploration=0.0), 8)) < len(firsts(drafter_on(text, exploration=5.0), 8))
    assert chain(proposed(drafter_on(text), ONE, 16))[:3] == (50, 51, 52)


def test_weights_stay_bounded() -> None:
    memory = drafter_on([7] * 3000)._memory(A)
    assert isinstance(memory, TrigramMemory)
    for _, row in memory._rows.items():
        assert sum(weight for _, weight in row) <= MAX_TOTAL + 1e-6
