"""What a verifier goes on with by itself is what the tree would have offered after the same verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, DraftNode, Epoch, SequenceId, Verdict
from speculation.sequel import Sequel, SequelItem, go_on, nodes_below
from speculation.tree import TokenTree

NAME, EPOCH, DRAFTER = SequenceId("1"), Epoch(0), DrafterId("d")
confidences = st.floats(0.01, 1.0)
# Each node: which of the earlier ones it hangs below (0: the root), its token, its confidence.
grown = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), confidences), max_size=30)
decisions = st.lists(st.integers(0, 3), min_size=1, max_size=5)


def tree_of(nodes: list[tuple[int, int, float]]) -> TokenTree:
    tree = TokenTree(next_position=10)
    ids = [ROOT]
    for below, token, confidence in nodes:
        node = tree.add(ids[below % len(ids)], token, confidence, DRAFTER)
        assert node is not None
        ids.append(node)
    return tree


def item_of(tree: TokenTree, *, max_nodes: int = 100, num_left: int = 100) -> tuple[SequelItem, tuple[int, ...]]:
    whole = tree.frontier(1000)
    return (
        SequelItem(sequence=NAME, epoch=EPOCH, position=10, nodes=whole.nodes, max_nodes=max_nodes, num_left=num_left),
        whole.ids,
    )


def verdict_of(tokens: list[int]) -> Verdict:
    return Verdict(
        sequence=NAME, epoch=EPOCH, position=10, accepted=tuple(range(len(tokens) - 1)), tokens=tuple(tokens)
    )


@given(grown, decisions, st.integers(0, 12), st.floats(0.0, 0.3), st.integers(1, 12))
def test_it_is_the_frontier_of_the_re_rooted_tree(
    nodes: list[tuple[int, int, float]], tokens: list[int], max_nodes: int, min_value: float, num_left: int
) -> None:
    tree = tree_of(nodes)
    item, ids = item_of(tree, max_nodes=max_nodes, num_left=num_left)
    sequel = Sequel(round=2, after=1, items=(item,), max_rows=50, min_value=min_value)
    parts = go_on(sequel, {NAME: verdict_of(tokens)})
    tree.commit(10, tokens)
    if num_left <= len(tokens):
        assert parts == ()
        return
    (part,) = parts
    assert part.position == tree.next_position
    frontier = tree.frontier_of(ids[index] for index in part.chosen)  # every node is there, its parent before it
    assert [(node.token, node.parent) for node in frontier.nodes] == [
        (node.token, node.parent) for node in nodes_below(item, part.chosen)
    ]
    shallow = [node for node in tree.by_value() if tree.depth(node.id) < num_left - len(tokens)]
    values = [node.value for node in shallow if node.value >= min_value + 1e-9][:max_nodes]
    found = sorted((tree[node].value for node in frontier.ids), reverse=True)
    assert found[: len(values)] == pytest.approx(values)
    assert all(value >= min_value - 1e-9 for value in found)
    assert len(found) <= max_nodes


def test_sequences_compete_for_rows_and_the_ended_stay_behind() -> None:
    strong, weak = tree_of([(0, 1, 0.9), (1, 2, 0.9)]), tree_of([(0, 1, 0.2), (0, 2, 0.1)])
    items = []
    for name, tree in (("a", strong), ("b", weak), ("c", weak), ("d", weak)):
        nodes = tree.frontier(10).nodes
        # They were told of a root above the one that the verdict leaves them at.
        hung = [
            DraftNode(token=node.token, parent=node.parent + 1, confidence=node.confidence, drafter=DRAFTER)
            for node in nodes
        ]
        root = DraftNode(token=7, parent=ROOT, confidence=1.0, drafter=DRAFTER)
        items.append(
            SequelItem(
                sequence=SequenceId(name),
                epoch=EPOCH,
                position=10,
                nodes=(root, *hung),
                max_nodes=5,
                num_left=1 + (name != "d") if name != "a" else 50,
            )
        )
    verdicts = {
        item.sequence: Verdict(sequence=item.sequence, epoch=EPOCH, position=10, accepted=(), tokens=(7,))
        for item in items
    }
    verdicts[SequenceId("c")] = Verdict(sequence=SequenceId("c"), epoch=EPOCH, position=10, accepted=(), tokens=(3,))

    def chosen(**limits: float) -> dict[str, int]:
        sequel = Sequel(round=2, after=1, items=tuple(items), **{"max_rows": 9, **limits})  # type: ignore[arg-type]
        return {part.sequence: len(part.chosen) for part in go_on(sequel, verdicts, end_tokens={3})}

    assert chosen() == {"a": 2, "b": 0}, "one token left needs no draft; c ended with token 3, d with its last"
    assert chosen(max_rows=3) == {"a": 1, "b": 0}
    assert chosen(min_value=0.85) == {"a": 1, "b": 0}
    assert chosen(min_tokens=1.8) == {"a": 2, "b": 0}, "0.9 + 0.81 on top of two, over two sequences"
    assert chosen(min_tokens=1.9) == {}
    del verdicts[SequenceId("b")]
    assert chosen() == {}, "without a verdict the router has to be asked"


def test_nodes_that_are_no_tree_are_refused() -> None:
    node = DraftNode(token=1, parent=1, confidence=0.5, drafter=DRAFTER)
    with pytest.raises(InvalidArgument, match="has parent 1"):
        SequelItem(sequence=NAME, epoch=EPOCH, position=1, nodes=(node,), num_left=3)
