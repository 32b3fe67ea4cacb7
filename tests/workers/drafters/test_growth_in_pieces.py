"""Growth in pieces makes the best tree there is, and knows where it will look."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from contracts.types import ROOT
from workers.drafters.growth import MIN_CONFIDENCE, Candidate, Grown, Growth

Path = tuple[int, ...]


def children(path: Path, seed: int) -> list[Candidate[Path]]:
    """A few, with confidences that are often equal and sometimes not worth a node."""
    rng = random.Random(f"{seed} {path}")
    return [(token, rng.choice([0.5, 0.25, 0.125, 1e-9]), (*path, token)) for token in range(rng.randrange(4))]


def best(seed: int, num_nodes: int, max_depth: int, least_value: float = 0.0) -> list[Grown]:
    """The plain way: of all children of the tree so far, again and again the one of highest value, found first. Nodes
    of less than `least_value` have no children."""
    tree: list[Grown] = []
    found: list[tuple[float, int, int, Path, float]] = []  # -value, order, parent, path, confidence

    def look(parent: int, path: Path, value: float) -> None:
        for token, confidence, _ in children(path, seed) if len(path) < max_depth and value >= least_value else []:
            if confidence >= MIN_CONFIDENCE:
                found.append((-value * confidence, len(found), parent, (*path, token), confidence))

    look(ROOT, (), 1.0)
    taken: set[int] = set()
    while len(tree) < num_nodes and len(taken) < len(found):
        value, order, parent, path, confidence = min(each for each in found if each[1] not in taken)
        taken.add(order)
        tree.append(Grown(path[-1], parent, confidence))
        look(len(tree) - 1, path, -value)
    return tree


@given(
    seed=st.integers(0, 2**32),
    num_nodes=st.integers(0, 20),
    max_depth=st.integers(-1, 6),
    least_value=st.sampled_from([0.0, 0.125, 0.3, 1.0]),
)
def test_it_is_the_best_tree_and_final_as_it_grows(
    seed: int, num_nodes: int, max_depth: int, least_value: float
) -> None:
    start: Path = ()
    whole = best(seed, num_nodes, max_depth, least_value)
    growth = Growth(start, num_nodes, max_depth=max_depth, least_value=least_value)
    looked: list[Path] = []
    while growth.next is not None:
        assert whole[: len(growth.tree)] == growth.tree  # final as soon as it is there
        looked.append(growth.next.context)
        growth.give(children(growth.next.context, seed))
    assert growth.tree == whole
    assert growth.soon() == []
    assert len(set(looked)) == len(looked)


@given(
    seed=st.integers(0, 2**32),
    num_nodes=st.integers(1, 20),
    num_before=st.integers(0, 10),
    least_value=st.sampled_from([0.0, 0.2]),
)
def test_it_looks_where_it_said_unless_something_better_is_found(
    seed: int, num_nodes: int, num_before: int, least_value: float
) -> None:
    growth = Growth[Path]((), num_nodes, max_depth=4, least_value=least_value)
    for _ in range(num_before):
        if growth.next is not None:
            growth.give(children(growth.next.context, seed))
    soon = growth.soon()
    values = [value for value, _ in soon]
    assert values == sorted(values, reverse=True)
    looked: list[Path] = []
    while growth.next is not None:
        looked.append(growth.next.context)
        growth.give([])
    assert looked == [path for _, path in soon]
