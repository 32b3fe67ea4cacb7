"""A retrieved tree in a model drafter's tree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contracts.types import ROOT, DrafterId, DraftNode
from tests.workers.drafters.rig import check_tree, paths
from workers.drafters.graft import graft

MODEL, STORE = DrafterId("model"), DrafterId("store")


def tree_of(drafter: DrafterId, *nodes: tuple[int, int, float]) -> tuple[DraftNode, ...]:
    return tuple(DraftNode(token=t, parent=p, confidence=c, drafter=drafter) for t, p, c in nodes)


def test_the_longest_common_beginning_is_shared() -> None:
    model = tree_of(MODEL, (1, ROOT, 0.6), (2, 0, 0.5), (3, ROOT, 0.2))
    retrieved = tree_of(STORE, (1, ROOT, 0.7), (2, 0, 0.4), (9, 1, 0.9), (8, 0, 0.3))
    merged = graft(model, retrieved, 10)
    assert sorted(paths(merged)) == [(1,), (1, 2), (1, 2, 9), (1, 8), (3,)]
    said = dict(zip(paths(merged), merged, strict=True))
    assert said[(1,)].confidence == 0.7
    assert said[(1, 2)].confidence == 0.5
    assert [said[path].drafter for path in ((1,), (1, 2), (1, 2, 9))] == [MODEL, MODEL, STORE]


def test_what_the_model_gives_no_place_is_pruned_with_all_below() -> None:
    model = tree_of(MODEL, (1, ROOT, 0.6))
    retrieved = tree_of(STORE, (4, ROOT, 0.9), (5, 0, 0.9), (1, ROOT, 0.1), (6, 2, 0.9))
    assert sorted(paths(graft(model, retrieved, 10))) == [(1,), (1, 6)]
    assert (4, 5) in paths(graft(model, retrieved, 10, prune=False))
    assert graft((), retrieved, 2) == retrieved[:2]
    assert graft(model, (), 5) == model


NODES = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 8), st.floats(0.01, 1.0)), max_size=12)


def valid(drafter: DrafterId, raw: list[tuple[int, int, float]]) -> tuple[DraftNode, ...]:
    """A tree from any numbers: parents first, no sibling twice."""
    nodes: dict[tuple[int, int], tuple[int, int, float]] = {}
    for token, parent, confidence in raw:
        placed = min(parent, len(nodes) - 1)
        nodes.setdefault((placed, token), (token, placed, confidence))
    return tree_of(drafter, *nodes.values())


@given(first=NODES, second=NODES, num_nodes=st.integers(0, 30))
def test_the_result_is_a_tree_of_both_and_nothing_else(
    first: list[tuple[int, int, float]], second: list[tuple[int, int, float]], num_nodes: int
) -> None:
    model, retrieved = valid(MODEL, first), valid(STORE, second)
    merged = graft(model, retrieved, num_nodes, prune=False)
    check_tree(merged, num_nodes)
    union = set(paths(model)) | set(paths(retrieved))
    assert set(paths(merged)) <= union
    if num_nodes >= len(union):
        assert set(paths(merged)) == union
