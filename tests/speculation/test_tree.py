"""The token tree against a naive set of paths, over any sequence of operations; and its cost."""

from __future__ import annotations

import random
import time
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, Epoch, Feedback, SequenceId, Verdict
from contracts.verdict import walk
from speculation.frontier import Settled
from speculation.tree import TokenTree
from speculation.tree_node import Said
from tests.speculation.naive_tree import NaiveTree, Path

A, B, C = DrafterId("a"), DrafterId("b"), DrafterId("c")
TOKENS = st.integers(0, 3)
DRAFTERS = st.sampled_from([A, B, C])
CONFIDENCES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5, 0.7, 0.9, 1.0])
STATEMENTS = st.lists(
    st.tuples(st.lists(TOKENS, min_size=1, max_size=4), CONFIDENCES, DRAFTERS), min_size=1, max_size=12
)
SEQUENCE, EPOCH = SequenceId("s"), Epoch(0)


def verdict_of(tree: TokenTree, choose: random.Random, *, with_feedback: bool = True) -> Verdict:
    """What a target would say that picks at random, and often what the tree has; some rows leave the pass early."""
    frontier = tree.in_flight
    nodes = frontier.nodes if frontier is not None else ()
    pruned = {index for index in range(len(nodes)) if with_feedback and choose.random() < 0.1}
    choices = []
    for index in range(-1, len(nodes)):
        at = tree[frontier.ids[index] if frontier is not None and index >= 0 else tree.root]
        own = sorted(at.children)
        choices.append(choose.choice(own) if own and choose.random() < 0.8 else choose.randrange(6))
    accepted = walk(choices, [-2 if i in pruned else n.token for i, n in enumerate(nodes)], [n.parent for n in nodes])
    reached = {ROOT, *accepted}
    feedback = tuple(
        Feedback(parent_accepted=node.parent in reached, chosen=index in accepted, pruned=index in pruned)
        for index, node in enumerate(nodes)
    )
    return Verdict(
        sequence=SEQUENCE,
        epoch=EPOCH,
        position=tree.next_position,
        accepted=tuple(accepted),
        tokens=(*(nodes[index].token for index in accepted), choices[1 + (accepted[-1] if accepted else ROOT)]),
        feedback=feedback if with_feedback else (),
    )


class TreeAndModel(RuleBasedStateMachine):
    """Everything that can happen to a tree, done to the naive model too."""

    @initialize(max_nodes=st.sampled_from([4, 9, 1000]))
    def begin(self, max_nodes: int) -> None:
        self.tree = TokenTree(next_position=7, max_nodes=max_nodes)
        self.model = NaiveTree(max_nodes)
        self.flying: list[Path] = []
        self.dead: set[int] = set()

    def pick(self, number: int) -> Path:
        paths = [(), *sorted(self.model.said)]
        return paths[number % len(paths)]

    def id_of(self, path: Path) -> int:
        return self.model.ids[path] if path else self.tree.root

    def grow(self, path: Path, confidence: float, drafter: DrafterId) -> None:
        """Does to the model what the tree was asked to do."""
        self.model.say(path, drafter, Said(confidence, confidence, len(path)))
        if path not in self.model.ids:
            self.model.ids[path] = max([*self.model.ids.values(), *self.dead, self.tree.root]) + 1
        ids = dict(self.model.ids)
        self.dead |= {ids[gone] for gone in self.model.evict(self.flying)}

    @rule(number=st.integers(0, 99), token=TOKENS, confidence=CONFIDENCES, drafter=DRAFTERS)
    def add(self, number: int, token: int, confidence: float, drafter: DrafterId) -> None:
        parent = self.pick(number)
        node = self.tree.add(self.id_of(parent), token, confidence, drafter)
        self.grow((*parent, token), confidence, drafter)
        assert node == self.model.ids.get((*parent, token))

    @rule(number=st.integers(0, 99), drafter=DRAFTERS, path=st.lists(st.tuples(TOKENS, CONFIDENCES), max_size=5))
    def add_path(self, number: int, drafter: DrafterId, path: list[tuple[int, float]]) -> None:
        at = self.pick(number)
        ids = self.tree.add_path(self.id_of(at), [t for t, _ in path], [c for _, c in path], drafter)
        expected = []
        for token, confidence in path:
            at = (*at, token)
            self.grow(at, confidence, drafter)
            if at not in self.model.ids:
                break
            expected.append(self.model.ids[at])
        assert ids == expected

    @rule(number=st.integers(0, 99), drafter=DRAFTERS, comb=st.lists(st.tuples(TOKENS, CONFIDENCES), max_size=4))
    def add_comb(self, number: int, drafter: DrafterId, comb: list[tuple[int, float]]) -> None:
        at = self.pick(number)
        ids = self.tree.add_comb(self.id_of(at), comb, drafter)
        for token, confidence in comb:
            if not at or at in self.model.ids:
                self.grow((*at, token), confidence, drafter)
        assert [node in self.model.ids.values() for node in ids] == [node is not None for node in ids]
        assert set(ids) - {None} == {self.model.ids[(*at, t)] for t, _ in comb if (*at, t) in self.model.ids}

    @rule(statements=STATEMENTS)
    def merge(self, statements: list[tuple[list[int], float, DrafterId]]) -> None:
        other = TokenTree(next_position=self.tree.next_position)
        for tokens, confidence, drafter in statements:
            other.add_path(ROOT, tokens, [confidence] * len(tokens), drafter)
        if len(set(self.model.said) | set(other.paths())) > self.model.max_nodes:
            return  # what is evicted when is for another test
        self.tree.merge(other)
        for path, of_drafter in sorted(other.paths().items()):
            for drafter, said in of_drafter.items():
                self.model.say(path, drafter, said)
        self.model.ids = {self.tree.path(node.id): node.id for node in self.tree.by_value()}

    @rule(drafter=DRAFTERS)
    def withdraw(self, drafter: DrafterId) -> None:
        before = dict(self.model.ids)
        self.model.withdraw(drafter, self.flying)
        gone = set(before.values()) - set(self.model.ids.values())
        assert self.tree.withdraw(drafter) == len(gone)
        self.dead |= gone

    @precondition(lambda self: self.tree.in_flight is None)
    @rule(num_nodes=st.integers(0, 6))
    def start(self, num_nodes: int) -> None:
        frontier = self.tree.frontier(num_nodes)
        self.flying = [self.tree.path(node) for node in frontier.ids]
        assert len(frontier.nodes) == min(num_nodes, len(self.model.said))
        for index, (node, path) in enumerate(zip(frontier.nodes, self.flying, strict=True)):
            assert node.parent < index
            assert path == (*(self.flying[node.parent] if node.parent != ROOT else ()), node.token)
            assert node.confidence == self.model.confidence(path)
            loudest = max(said.confidence for said in self.model.said[path].values())
            assert self.model.said[path][node.drafter].confidence == loudest
        left = sorted((self.model.value(path) for path in self.model.said if path not in self.flying), reverse=True)
        assert not left or all(self.model.value(path) >= left[0] for path in self.flying)
        self.tree.start(frontier)
        with pytest.raises(InvalidArgument, match="in flight"):
            self.tree.start(frontier)

    @rule(seed=st.integers(0, 10**6), with_feedback=st.booleans())
    def settle(self, seed: int, with_feedback: bool) -> None:
        verdict = verdict_of(self.tree, random.Random(seed), with_feedback=with_feedback)
        pruned = {path for path, each in zip(self.flying, verdict.feedback, strict=False) if each.pruned}
        tokens = verdict.tokens
        expected = {
            (self.model.ids[path], drafter, said.depth, said.confidence, path == tokens[: len(path)])
            for path, of_drafter in self.model.said.items()
            if len(path) <= len(tokens) and path[:-1] == tokens[: len(path) - 1] and path not in pruned
            for drafter, said in of_drafter.items()
        }
        settled = self.tree.settle(verdict)
        assert {(t.node, t.drafter, t.depth, t.confidence, t.chosen) for t in settled.tested} == expected
        last = tokens[:-1]
        missed = any(path[:-1] == last for path in self.flying)
        assert (settled.missed, settled.ready) == (missed, tokens in self.model.said)
        self.check_reroot(settled, tokens, num_accepted=len(verdict.accepted))

    @rule(tokens=st.lists(TOKENS, min_size=1, max_size=3))
    def commit(self, tokens: list[int]) -> None:
        settled = self.tree.commit(self.tree.next_position, tokens)
        self.check_reroot(settled, tuple(tokens), num_accepted=0)

    def check_reroot(self, settled: Settled, tokens: Path, *, num_accepted: int) -> None:
        before, self.flying = dict(self.model.ids), []
        self.model.commit(tokens)
        on_the_way = {before[tokens[:n]] for n in range(1, len(tokens) + 1) if tokens[:n] in before}
        gone = set(before.values()) - set(self.model.ids.values())
        assert (settled.num_survived, settled.num_dropped) == (len(self.model.said), len(gone - on_the_way))
        assert settled.num_accepted == num_accepted
        if tokens in before:
            assert self.tree.root == before[tokens]  # a message that names the node now names the root
        self.dead |= gone - {self.tree.root}

    @rule()
    def abandon(self) -> None:
        self.tree.abandon()
        self.flying = []

    @precondition(lambda self: self.dead)
    @rule(number=st.integers(0, 99))
    def orphan(self, number: int) -> None:
        before = self.tree.num_orphans
        assert self.tree.add(sorted(self.dead)[number % len(self.dead)], 1, 0.5, A) is None
        assert self.tree.num_orphans == before + 1

    @invariant()
    def same_as_model(self) -> None:
        if not hasattr(self, "tree"):
            return
        assert self.tree.paths() == self.model.said
        assert len(self.tree) == len(self.model.said) <= self.model.max_nodes
        for path, node in self.model.ids.items():
            assert node in self.tree
            assert self.tree.path(node) == path
            assert self.tree.depth(node) == len(path)
            assert self.tree[node].value == self.model.value(path)
        assert not any(node in self.tree for node in self.dead)
        assert self.tree.root not in self.tree

    @invariant()
    def in_order(self) -> None:
        if not hasattr(self, "tree"):
            return
        nodes = list(self.tree.by_value())
        values = [node.value for node in nodes]
        assert sorted(values, reverse=True) == values
        seen = {self.tree.root}
        for node in nodes:
            assert node.parent in seen
            seen.add(node.id)
        by_depth: dict[int, float] = {}
        for node in nodes:
            by_depth[node.position] = by_depth.get(node.position, 0.0) + node.value
        assert all(value <= 1.0 + 1e-9 for value in by_depth.values())


TreeAndModel.TestCase.settings = settings(max_examples=150, stateful_step_count=30, derandomize=True, deadline=None)
test_tree_equals_a_naive_set_of_paths = TreeAndModel.TestCase


@settings(max_examples=60)
@given(parts=st.lists(STATEMENTS, min_size=2, max_size=4))
def test_merging_in_any_order_gives_an_equal_tree(parts: list[list[tuple[list[int], float, DrafterId]]]) -> None:
    def tree_of(part: list[tuple[list[int], float, DrafterId]]) -> TokenTree:
        tree = TokenTree(next_position=3)
        for tokens, confidence, drafter in part:
            tree.add_path(ROOT, tokens, [confidence] * len(tokens), drafter)
        return tree

    merged = []
    for order in permutations(parts):
        tree = TokenTree(next_position=3)
        for part in order:
            tree.merge(tree_of(part))
        tree.merge(tree_of(order[0]))  # once more changes nothing
        merged.append((tree.paths(), {tree.path(node.id): node.value for node in tree.by_value()}))
    assert all(other == merged[0] for other in merged)


@settings(max_examples=60)
@given(statements=STATEMENTS, more=STATEMENTS, num_nodes=st.integers(0, 5))
def test_a_merge_into_a_full_tree_keeps_what_is_in_flight(
    statements: list[tuple[list[int], float, DrafterId]],
    more: list[tuple[list[int], float, DrafterId]],
    num_nodes: int,
) -> None:
    tree, other = TokenTree(next_position=3, max_nodes=5), TokenTree(next_position=3)
    for tokens, confidence, drafter in statements:
        tree.add_path(ROOT, tokens, [confidence] * len(tokens), drafter)
    for tokens, _, drafter in more:
        other.add_path(ROOT, tokens, [1.0] * len(tokens), drafter)
    frontier = tree.frontier(num_nodes)
    tree.start(frontier)
    paths = [tree.path(node) for node in frontier.ids]
    tree.merge(other)
    assert len(tree) <= 5
    assert [tree.path(node) for node in frontier.ids] == paths
    for path in tree.paths():
        assert path[:-1] in {(), *tree.paths()}


def test_a_miss_finds_the_subtree_that_was_ready_for_it() -> None:
    tree = TokenTree(next_position=1)
    best, spare = tree.add_comb(ROOT, [(5, 0.6), (6, 0.3)], A)
    assert best is not None
    assert spare is not None
    tree.start(tree.frontier(1))
    below = tree.add_path(spare, [8, 9], [0.9, 0.9], B)  # while the round runs
    settled = tree.settle(Verdict(sequence=SEQUENCE, epoch=EPOCH, position=1, accepted=(), tokens=(6,)))
    assert settled.miss_was_ready
    assert (settled.num_survived, settled.num_dropped) == (2, 1)
    assert tree.path(below[-1]) == (8, 9)
    assert tree[below[-1]].value == pytest.approx(0.81)
    assert {(tested.node, tested.chosen) for tested in settled.tested} == {(best, False), (spare, True)}


def test_a_verdict_of_an_older_position_is_counted_and_a_newer_one_refused() -> None:
    tree = TokenTree(next_position=4)
    tree.add(ROOT, 1, 0.5, A)
    tree.start(tree.frontier(1))
    old = Verdict(sequence=SEQUENCE, epoch=EPOCH, position=3, accepted=(), tokens=(1,))
    new = Verdict(sequence=SEQUENCE, epoch=EPOCH, position=5, accepted=(), tokens=(1,))
    assert tree.settle(old) == Settled(stale=True)
    assert tree.commit(0, [1]).stale
    assert (tree.num_stale, len(tree), tree.in_flight is not None) == (2, 1, True)
    with pytest.raises(InvalidArgument, match=r"position 5.*next is 4"):
        tree.settle(new)


@pytest.mark.parametrize(
    ("accepted", "tokens"),
    [((1,), (6, 0)), ((0,), (6, 0)), ((1, 0), (6, 5, 0)), ((7,), (5, 0)), ((-1,), (5, 0))],
)
def test_a_verdict_about_another_frontier_is_refused(accepted: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    tree = TokenTree(next_position=1)
    tree.add_path(ROOT, [5, 6], [0.5, 0.5], A)
    tree.start(tree.frontier(2))
    with pytest.raises(InvalidArgument, match="accepts node"):
        tree.settle(Verdict(sequence=SEQUENCE, epoch=EPOCH, position=1, accepted=accepted, tokens=tokens))
    assert len(tree) == 2


def test_a_frontier_that_is_not_a_connected_upper_part_is_refused() -> None:
    tree = TokenTree(next_position=1)
    first, second = tree.add_path(ROOT, [5, 6], [0.5, 0.5], A)
    assert tree.frontier_of([first, second]) == tree.frontier(2)
    for ids in ([second], [second, first], [first, first], [99]):
        with pytest.raises(InvalidArgument, match="frontier node"):
            tree.frontier_of(ids)
    old = tree.frontier(1)
    tree.commit(1, [5])
    with pytest.raises(InvalidArgument, match="older tree"):
        tree.start(old)


@pytest.mark.parametrize(
    ("token", "confidence", "score"),
    [(-1, 0.5, 0.5), (1, float("nan"), 0.5), (1, 1.5, 0.5), (1, -0.1, 0.5), (1, 0.5, float("nan"))],
)
def test_what_no_honest_drafter_says_is_refused(token: int, confidence: float, score: float) -> None:
    tree = TokenTree(next_position=1)
    with pytest.raises(InvalidArgument, match="draft node"):
        tree.add(ROOT, token, confidence, A, score=score)
    assert len(tree) == 0


def test_a_parent_that_never_was_is_refused_and_one_that_went_is_counted() -> None:
    tree = TokenTree(next_position=1)
    gone = tree.add(ROOT, 5, 0.5, A)
    assert gone is not None
    tree.commit(1, [6])
    assert tree.add(gone, 1, 0.5, A) is None
    assert tree.num_orphans == 1
    with pytest.raises(InvalidArgument, match="no node of this tree"):
        tree.add(1000, 1, 0.5, A)


def test_what_was_kept_for_a_round_may_go_once_the_round_is_lost() -> None:
    tree = TokenTree(next_position=1, max_nodes=2)
    low, _ = tree.add_comb(ROOT, [(1, 0.1), (2, 0.5)], A)
    assert low is not None
    tree.start(tree.frontier(2))
    assert tree.add(ROOT, 3, 0.2, B) is None  # full, and nothing may go but itself
    tree.abandon()
    assert tree.add(ROOT, 4, 0.2, B) is not None
    assert low not in tree


def test_a_drafter_takes_back_all_but_what_is_being_checked() -> None:
    tree = TokenTree(next_position=1)
    top, below = tree.add_path(ROOT, [5, 6], [0.9, 0.9], A)
    beside = tree.add_path(ROOT, [7], [0.05], A)[0]
    tree.start(tree.frontier(1))
    assert tree.withdraw(A) == 2
    assert (top in tree, below in tree, beside in tree) == (True, False, False)
    assert tree.settle(Verdict(sequence=SEQUENCE, epoch=EPOCH, position=1, accepted=(0,), tokens=(5, 1))).num_accepted


def test_each_drafter_is_told_its_own_part() -> None:
    tree = TokenTree(next_position=1)
    tree.add_path(ROOT, [1, 2, 3], [0.9, 0.9, 0.9], A)
    two = tree.add_path(ROOT, [1, 2], [0.5, 0.5], B)[-1]
    tree.add(two, 4, 0.5, B)
    tree.add(ROOT, 7, 0.1, B)
    assert tree.paths_of(A) == [(1, 2, 3)]
    assert tree.paths_of(B) == [(1, 2, 4), (7,)]
    assert tree.paths_of(C) == []


def test_ten_thousand_node_operations_take_less_than_fifty_milliseconds() -> None:
    """Adds of two drafters that often agree, frontiers, growth in flight, and re-roots; each node counts once where it
    is added or goes into a frontier. About 30 ms on one slow core; the bound leaves room for a busy one."""
    rng = random.Random(0)
    plan = [(rng.choice([A, B]), rng.random() * 0.6, rng.randrange(50)) for _ in range(9000)]

    def run() -> tuple[float, int]:
        began, num_operations = time.process_time(), 0
        tree, statements = TokenTree(next_position=1), iter(plan)
        for _ in range(100):
            ids = [ROOT]
            for number, (drafter, confidence, token) in zip(range(60), statements, strict=False):
                node = tree.add(ids[number * 7 % len(ids)], token, confidence, drafter)
                ids += [node] if node is not None else []
            frontier = tree.frontier(16)
            tree.start(frontier)
            for number, (drafter, confidence, token) in zip(range(24), statements, strict=False):
                tree.add(ids[number * 11 % len(ids)], token, confidence, drafter)
            num_operations += 60 + 24 + len(frontier.ids)
            tokens = (frontier.nodes[0].token, 7)
            position = tree.next_position
            tree.settle(Verdict(sequence=SEQUENCE, epoch=EPOCH, position=position, accepted=(0,), tokens=tokens))
        return time.process_time() - began, num_operations

    figures = [run() for _ in range(5)]
    best_s = min(elapsed_s / num_operations * 10_000 for elapsed_s, num_operations in figures)
    print(f"10,000 node operations: {best_s * 1e3:.1f} ms of CPU time")
    assert figures[0][1] == 10_000
    assert best_s < 0.15  # three times the promise, for cores that are slow and shared; see the printed figure
