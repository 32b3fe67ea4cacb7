"""A drafter node, and a router's view of what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from contracts.clock import Clock
from contracts.types import ROOT, DraftNode, SamplingParams, SequenceId, StepReport
from specfleet.v1 import fleet_pb2
from tests.workers.drafters.model_rig import GREEDY, Rig
from tests.workers.router_side import opening
from workers.drafter_node.answers import AtOnce
from workers.drafter_node.node import DrafterNode
from workers.drafters.drafter import Drafter

Path = tuple[int, ...]
Tree = dict[Path, float]


class Heard:
    """What a router has of one sequence: paths below the root with their confidences."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.is_complete = False

    def take(self, draft: fleet_pb2.Draft) -> None:
        """No node twice, and none without its parent."""
        below = tuple(draft.below)
        paths: list[Path] = []
        for node in draft.nodes:
            path = (*(below if node.parent == ROOT else paths[node.parent]), node.token)
            assert path not in self.tree, "told twice"
            paths.append(path)
            self.tree[path] = node.confidence
        self.is_complete = draft.is_last

    def decide(self, tokens: Path) -> None:
        count = len(tokens)
        self.tree = {path[count:]: c for path, c in self.tree.items() if len(path) > count and path[:count] == tokens}
        self.is_complete = False


def tree_of(nodes: Iterable[DraftNode], below: Path = ()) -> Tree:
    paths: list[Path] = []
    tree: Tree = {}
    for node in nodes:
        paths.append((*(below if node.parent == ROOT else paths[node.parent]), node.token))
        tree[paths[-1]] = node.confidence
    return tree


class Talk:
    """A node and a router's view of it; every message is taken apart as it comes."""

    def __init__(self, node: DrafterNode) -> None:
        self.node = node
        self.heard: dict[int, Heard] = {}
        self.position: dict[int, int] = {}
        self.steps: list[fleet_pb2.StepReport] = []
        self.num_messages = 0

    def open(self, number: int, tokens: Sequence[int], sampling: SamplingParams = GREEDY, *, epoch: int = 0) -> None:
        self.heard[number], self.position[number] = Heard(), len(tokens)
        self.node.take(fleet_pb2.DrafterWork(open=[opening(number, tokens, sampling, epoch=epoch)]))

    def want(self, number: int, num_nodes: int, **named: object) -> None:
        self.heard[number].is_complete = False
        self.node.take(fleet_pb2.DrafterWork(want=[want(number, self.position[number], num_nodes, **named)]))

    def decide(self, number: int, tokens: Sequence[int]) -> None:
        self.node.take(fleet_pb2.DrafterWork(commit=[commit(number, self.position[number], tokens)]))
        self.position[number] += len(tokens)
        self.heard[number].decide(tuple(tokens))

    def step(self) -> fleet_pb2.Drafts:
        drafts = self.node.draft()
        if drafts.drafts:
            self.num_messages += 1
            assert drafts.began_s <= drafts.ended_s
        self.steps += drafts.steps
        for draft in drafts.drafts:
            assert draft.position == self.position[draft.sequence]
            self.heard[draft.sequence].take(draft)
        return drafts

    def finish(self) -> None:
        while self.node.has_work:
            self.step()


def want(number: int, position: int, num_nodes: int, **named: object) -> fleet_pb2.Want:
    return fleet_pb2.Want(sequence=number, position=position, num_nodes=num_nodes, **named)  # type: ignore[arg-type]  # of its fields


def commit(number: int, position: int, tokens: Sequence[int], *, epoch: int = 0) -> fleet_pb2.Commit:
    return fleet_pb2.Commit(sequence=number, epoch=epoch, position=position, tokens=tokens)


def node_of(
    rig: Rig,
    steps: list[StepReport] | None = None,
    clock: Clock | None = None,
    agreement: Callable[[SequenceId], Sequence[bool]] | None = None,
) -> DrafterNode:
    return DrafterNode(
        rig.drafter,
        name="small",
        hello=fleet_pb2.FromWorker(),
        begin=rig.drafter.begin,
        steps=rig.reports if steps is None else steps,
        clock=clock,
        agreement=agreement,
    )


def at_once(drafter: Drafter) -> DrafterNode:
    return DrafterNode(drafter, name="plain", hello=fleet_pb2.FromWorker(), begin=lambda: AtOnce(drafter), steps=[])


def same(heard: Tree, truth: Tree) -> bool:
    return heard.keys() == truth.keys() and all(abs(heard[path] - truth[path]) < 1e-6 for path in heard)
