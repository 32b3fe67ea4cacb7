"""Nodes are told as they are found, whoever comes and goes meanwhile."""

from __future__ import annotations

import random

import pytest

from contracts.errors import InvalidArgument, NotFound
from contracts.types import DraftNode, SequenceId
from tests.workers.drafters.model_rig import NUM_TOKENS, SAMPLINGS, Rig, model, random_tokens
from tests.workers.drafters.rig import ONE, TWO, A
from workers.drafters.drafter import Ask, Opening
from workers.drafters.model_search import Search

THREE = SequenceId("three")
PROMPTS = {name: random_tokens(random.Random(index), 20 + 9 * index) for index, name in enumerate((ONE, TWO, THREE))}


def rig_with_sequences(max_batch_rows: int = 512) -> Rig:
    rig = Rig(model(), max_batch_rows=max_batch_rows)
    for (name, prompt), sampling in zip(PROMPTS.items(), SAMPLINGS, strict=False):
        rig.open(name, prompt, sampling)
    return rig


def run(search: Search, into: dict[int, list[DraftNode]]) -> set[int]:
    """One step; which asks it ended."""
    ended = set()
    for found in search.step():
        assert found.nodes or found.is_last
        into.setdefault(found.ask, []).extend(found.nodes)
        if found.is_last:
            ended.add(found.ask)
    return ended


def test_what_is_told_in_steps_is_what_is_proposed_at_once() -> None:
    asks = [Ask(sequence=name, num_nodes=9) for name in PROMPTS]
    asks.append(Ask(sequence=ONE, num_nodes=5, below=(40, 41)))
    trees = rig_with_sequences().drafter.propose(asks)
    search = rig_with_sequences(max_batch_rows=16).drafter.begin(asks)
    told: dict[int, list[DraftNode]] = {}
    ended: list[int] = []
    num_pieces = 0
    while not search.is_done:
        before = {number: len(nodes) for number, nodes in told.items()}
        ended += run(search, told)
        num_pieces += sum(len(nodes) > before.get(number, 0) for number, nodes in told.items())
    assert [tuple(told[number]) for number in range(4)] == trees
    assert sorted(ended) == [0, 1, 2, 3]
    assert num_pieces >= 8  # piece by piece, not each tree at its end
    assert search.step() == []


def test_asks_may_join_at_any_time() -> None:
    first, second = Ask(sequence=ONE, num_nodes=9), Ask(sequence=TWO, num_nodes=9)
    trees = rig_with_sequences().drafter.propose([first, second])
    rig = rig_with_sequences()
    search = rig.drafter.begin([first])
    told: dict[int, list[DraftNode]] = {}
    run(search, told)
    assert list(search.add([second])) == [1]
    num_steps = len(rig.reports)
    run(search, told)  # hands out nothing old, computes for both
    run(search, told)
    assert {report.num_sequences for report in rig.reports[num_steps:]} == {2}
    while not search.is_done:
        run(search, told)
    assert [tuple(told[0]), tuple(told[1])] == trees


def test_what_is_known_is_told_before_anything_is_computed() -> None:
    rig = rig_with_sequences()
    tree = rig.ask(ONE, 9)
    rig.reports.clear()
    search = rig.drafter.begin([Ask(sequence=TWO, num_nodes=3), Ask(sequence=ONE, num_nodes=9)])
    (found,) = search.step()
    assert (found.ask, found.nodes, found.is_last) == (1, tree, True)
    assert rig.reports == []


def test_what_others_found_out_meanwhile_is_not_computed_again() -> None:
    rig = rig_with_sequences()
    search = rig.drafter.begin([Ask(sequence=ONE, num_nodes=9)])
    told: dict[int, list[DraftNode]] = {}
    run(search, told)
    tree = rig.ask(ONE, 9)
    rig.reports.clear()
    assert run(search, told) == {0}
    assert tuple(told[0]) == tree
    assert rig.reports == []


@pytest.mark.parametrize("how", ["commit", "close", "reopen", "drop"])
def test_an_ask_ends_when_its_place_is_gone_and_the_others_go_on(how: str) -> None:
    asks = [Ask(sequence=ONE, num_nodes=9), Ask(sequence=TWO, num_nodes=9)]
    trees = rig_with_sequences().drafter.propose(asks)
    rig = rig_with_sequences()
    search = rig.drafter.begin(asks)
    told: dict[int, list[DraftNode]] = {}
    assert run(search, told) == set()
    so_far = len(told[0])
    if how == "commit":
        rig.commit(ONE, len(PROMPTS[ONE]), [trees[0][0].token])
    elif how == "drop":
        search.drop(ONE)
    else:
        rig.drafter.close([ONE])
        if how == "reopen":
            rig.drafter.open([Opening(sequence=ONE, tenant=A, tokens=[5, 6])])
    assert run(search, told) == {0}
    while not search.is_done:
        assert 0 not in run(search, told)
    assert told[0] == list(trees[0][:so_far])
    assert tuple(told[1]) == trees[1]


def test_asks_that_are_refused_do_not_join() -> None:
    rig = rig_with_sequences()
    search = rig.drafter.begin([Ask(sequence=ONE, num_nodes=2)])
    good = Ask(sequence=TWO, num_nodes=2)
    with pytest.raises(NotFound):
        search.add([good, Ask(sequence=SequenceId("nobody"), num_nodes=2)])
    with pytest.raises(InvalidArgument):
        search.add([good, Ask(sequence=TWO, num_nodes=2, below=(NUM_TOKENS,))])
    told: dict[int, list[DraftNode]] = {}
    while not search.is_done:
        run(search, told)
    assert list(told) == [0]
    assert list(search.add([good])) == [1]


def test_an_ask_for_nothing_is_answered_at_once() -> None:
    rig = rig_with_sequences()
    search = rig.drafter.begin([Ask(sequence=ONE, num_nodes=0)])
    (found,) = search.step()
    assert (found.nodes, found.is_last) == ((), True)
    assert rig.reports == []
