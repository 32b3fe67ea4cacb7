"""Growth in pieces makes the tree that growth at once makes, and knows where it will look."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from workers.drafters.growth import Candidate, grow
from workers.drafters.model_growth import Growth

Path = tuple[int, ...]


def children(path: Path, seed: int) -> list[Candidate[Path]]:
    """A few, with confidences that are often equal and sometimes not worth a node."""
    rng = random.Random(f"{seed} {path}")
    return [(token, rng.choice([0.5, 0.25, 0.125, 1e-9]), (*path, token)) for token in range(rng.randrange(4))]


@given(seed=st.integers(0, 2**32), num_nodes=st.integers(0, 20), max_depth=st.integers(-1, 6))
def test_in_pieces_as_at_once(seed: int, num_nodes: int, max_depth: int) -> None:
    start: Path = ()
    whole = grow(start, lambda path, _: children(path, seed), num_nodes, max_depth=max_depth)
    growth = Growth(start, num_nodes, max_depth=max_depth)
    looked: list[Path] = []
    while growth.next is not None:
        assert whole[: len(growth.tree)] == growth.tree  # final as soon as it is there
        looked.append(growth.next.context)
        growth.give(children(growth.next.context, seed))
    assert growth.tree == whole
    assert growth.soon() == []
    assert len(set(looked)) == len(looked)


@given(seed=st.integers(0, 2**32), num_nodes=st.integers(1, 20), num_before=st.integers(0, 10))
def test_it_looks_where_it_said_unless_something_better_is_found(seed: int, num_nodes: int, num_before: int) -> None:
    growth = Growth[Path]((), num_nodes, max_depth=4)
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
