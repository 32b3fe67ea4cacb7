"""Best-first growth finds the best tree, and joined contexts stay a distribution."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.types import ROOT
from workers.drafters.growth import Candidate, Grown, blend, grow, within_limits
from workers.drafters.search import search

START: tuple[int, ...] = ()
CHANCES = st.lists(st.floats(0.01, 0.6), min_size=6, max_size=6)


def expander(chances: list[float]) -> Callable[[tuple[int, ...], int], list[Candidate[tuple[int, ...]]]]:
    """A tree with two children below each node; their chances depend on depth and place."""

    def expand(path: tuple[int, ...], depth: int) -> list[tuple[int, float, tuple[int, ...]]]:
        return [(token, chances[2 * depth + token] * 0.8 ** sum(path), (*path, token)) for token in (0, 1)]

    return expand


def total_value(tree: list[Grown]) -> float:
    values: list[float] = []
    for node in tree:
        values.append(node.confidence * (1.0 if node.parent == ROOT else values[node.parent]))
    return sum(values)


@settings(max_examples=30)
@given(chances=CHANCES, num_nodes=st.integers(0, 6))
def test_no_tree_of_the_same_size_is_worth_more(chances: list[float], num_nodes: int) -> None:
    expand = expander(chances)
    value_of: dict[tuple[int, ...], float] = {(): 1.0}
    for depth in range(3):
        for path in [path for path in value_of if len(path) == depth]:
            for _, confidence, after in expand(path, depth):
                value_of[after] = value_of[path] * confidence
    every = [path for path in value_of if path]
    best = max(
        sum(value_of[path] for path in chosen)
        for chosen in combinations(every, num_nodes)
        if all(path[:-1] in chosen or len(path) == 1 for path in chosen)
    )
    tree = grow(START, expand, num_nodes, max_depth=3)
    assert len(tree) == num_nodes
    assert total_value(tree) == pytest.approx(best)


@settings(max_examples=30)
@given(chances=CHANCES, num_nodes=st.integers(0, 20), exploration=st.floats(0.0, 5.0))
def test_a_search_adds_one_new_node_at_a_time_until_all_are_in(
    chances: list[float], num_nodes: int, exploration: float
) -> None:
    tree = search(START, expander(chances), num_nodes, max_depth=3, exploration=exploration)
    assert len(tree) == min(num_nodes, 2 + 4 + 8)
    assert len({(node.parent, node.token) for node in tree}) == len(tree)
    assert all(node.parent < index for index, node in enumerate(tree))


def test_exploration_spreads_a_search() -> None:
    def expand(path: tuple[int, ...], depth: int) -> list[tuple[int, float, tuple[int, ...]]]:
        return [(token, chance, (*path, token)) for token, chance in enumerate((0.6, 0.2, 0.1, 0.05))]

    def num_first(exploration: float) -> int:
        tree = search(START, expand, 12, max_depth=12, exploration=exploration)
        return sum(node.parent == ROOT for node in tree)

    assert num_first(0.0) == 1
    assert 1 < num_first(1.0) <= num_first(20.0)
    assert num_first(20.0) >= 3


@given(
    st.lists(
        st.tuples(st.dictionaries(st.integers(0, 9), st.integers(1, 100).map(float), min_size=1), st.floats(0.1, 1.0)),
        max_size=4,
    )
)
def test_joined_contexts_are_a_distribution_with_something_left(
    contexts: list[tuple[dict[int, float], float]],
) -> None:
    levels = [(list(counts.items()), sum(counts.values()), escape) for counts, escape in contexts]
    joined = blend(levels, 10)
    assert math.fsum(confidence for _, confidence in joined) < 1.0
    assert all(confidence > 0.0 for _, confidence in joined)
    assert [pair[1] for pair in joined] == sorted((pair[1] for pair in joined), reverse=True)
    assert {token for token, _ in joined} == {token for counts, _ in contexts for token in counts}


def test_a_single_context_gives_its_counts_out_of_all_and_the_escape() -> None:
    assert blend([([(3, 2.0), (4, 1.0)], 3.0, 1.0)], 5) == [(3, 0.5), (4, 0.25)]
    assert blend([([(3, 1.0)], 1.0, 1.0), ([(4, 1.0)], 1.0, 1.0)], 5) == [(3, 0.5), (4, 0.25)]


@given(
    seed=st.integers(0, 2**32),
    num_nodes=st.integers(0, 12),
    max_depth=st.none() | st.integers(1, 4),
    max_children=st.none() | st.integers(1, 3),
)
def test_limits_leave_the_surest_children_and_whole_paths(
    seed: int, num_nodes: int, max_depth: int | None, max_children: int | None
) -> None:
    rng = random.Random(seed)
    tree = [Grown(index, rng.randrange(-1, index), rng.choice([0.1, 0.2, rng.random()])) for index in range(20)]
    cut = within_limits(tree, num_nodes, max_depth, max_children)
    assert len(cut) <= num_nodes
    depth_of, kept = {ROOT: 0}, set()
    for index, node in enumerate(cut):
        assert node.parent < index
        depth_of[index] = depth_of[node.parent] + 1
        kept.add(node.token)
        # Tokens name the nodes of the whole tree: the parent is still the parent.
        above = tree[node.token].parent
        assert node.confidence == tree[node.token].confidence
        assert above == (ROOT if node.parent == ROOT else cut[node.parent].token)
        assert max_depth is None or depth_of[index] <= max_depth
    for parent in {ROOT, *kept}:
        children = [index for index, node in enumerate(tree) if node.parent == parent]
        of_cut = [child for child in children if child in kept]
        assert max_children is None or len(of_cut) <= max_children
        if max_children is not None and of_cut:
            worst = min(tree[child].confidence for child in of_cut)
            better = [child for child in children if tree[child].confidence > worst and child not in kept]
            assert not better or len(cut) == num_nodes  # left out only where the nodes were used up
    if num_nodes >= 20 and max_depth is None and max_children is None:
        assert cut == tree


def test_a_chain_and_a_single_step_are_limits() -> None:
    tree = [Grown(0, ROOT, 0.3), Grown(1, ROOT, 0.6), Grown(2, 0, 0.9), Grown(3, 1, 0.2), Grown(4, 1, 0.4)]
    assert within_limits(tree, 9, None, 1) == [Grown(1, ROOT, 0.6), Grown(4, 0, 0.4)]
    assert within_limits(tree, 9, 1, None) == tree[:2]
    assert within_limits(tree, 3, None, None) == tree[:3]
