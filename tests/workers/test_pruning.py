"""Pruning inside the pass: who leaves is who should, what is reported is what happened, and the text stays."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.clock import VirtualClock
from contracts.errors import InvalidArgument, TopologyError
from contracts.types import ROOT, SamplingParams, SequenceId, Verdict
from engine.engine import Engine
from engine.model import head_logits
from engine.ranks import SingleRank
from engine.work import Draft, StepResult, Verify, Work
from speculation.cost import CostTable
from speculation.pruning import PruningGate, PruningPolicy
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import GREEDY, Alone, Model, random_tokens, random_tree, verify_of
from workers.pruning import Pruner, PruningLook

A, B, C = SequenceId("a"), SequenceId("b"), SequenceId("c")
Nodes = list[tuple[int, int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(write_checkpoint(tmp_path_factory.mktemp("pruning") / "model", "llama"), "float32")


def cost_of(*, row_s: float = 1.0) -> CostTable:
    """Rows that are dear, so that looks pay."""
    cost = CostTable()
    cost.add(1, 1, row_s)
    cost.add(512, 512 * 64, 512 * row_s)
    return cost


def policy_of(max_above: dict[int, int]) -> PruningPolicy:
    """One that forgets nothing, so that its rates are plain counts."""
    return PruningPolicy(max_above, lowest=1, highest=10**6, memory_rows=1e15)


def always(model: Model, policy: PruningPolicy) -> PruningGate:
    """A gate that never gives up, whatever is lost."""
    return PruningGate(policy, num_layers=len(model.weights.layers), probe_every=1)


class Recorder:
    """What leaves each layer, of all rows."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.hidden: dict[int, torch.Tensor] = {}

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> None:
        self.hidden[layer] = hidden.clone()


def ranks_above(model: Model, hidden: torch.Tensor, tree: Nodes, root_row: int) -> list[int]:
    """For each node the number of tokens above it at its parent's row, by looking at one row at a time."""
    found = []
    for token, parent in tree:
        row = root_row if parent == ROOT else root_row + 1 + parent
        logits = head_logits(model.weights, hidden[row : row + 1].clone(), torch.tensor([0]))[
            0, : model.num_real_tokens
        ]
        found.append(sum(1 for value in logits.tolist() if value > float(logits[token])))
    return found


class Count:
    """The rates of a layer, counted one node at a time."""

    def __init__(self) -> None:
        self.num_checked = self.num_pruned = self.num_known = self.num_wrong = 0


def left_after(
    tree: Nodes, above: dict[int, list[int]], max_above: dict[int, int], counts: dict[int, Count]
) -> dict[int, int]:
    """The layer after which each node leaves: the first at which it or one above it is out-ranked."""
    left: dict[int, int] = {}
    for layer, of_layer in above.items():
        alive = [index for index in range(len(tree)) if index not in left]
        for index in alive:
            parent = tree[index][1]
            if of_layer[index] >= max_above[layer] or left.get(parent) == layer:
                left[index] = layer
        counts[layer].num_checked += len(alive)
        counts[layer].num_pruned += sum(left.get(index) == layer for index in alive)
    return left


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("max_above", [{0: 12}, {1: 4}, {0: 60, 1: 12}, {0: 10**6, 2: 1}])
def test_who_leaves_and_what_is_reported_is_what_counting_says(
    model: Model, max_above: dict[int, int], temperature: float
) -> None:
    rng = random.Random(f"{max_above} {temperature}")
    sampling = SamplingParams(temperature=temperature, seed=3)
    alone, policy = Alone(model, is_compiled=True), policy_of(max_above)
    counts = {layer: Count() for layer in max_above}
    for _ in range(6):
        prompt = random_tokens(rng, rng.randrange(1, 12))
        truth = alone.decode(prompt, sampling, 16)
        engine, whole = model.engine(), model.engine()
        pruner = Pruner(engine, policy, gate=always(model, policy))
        for each in (engine, whole):
            each.open(A, prompt, sampling)
            each.open(B, prompt[::-1], GREEDY)
        done: list[int] = []
        while len(done) < 8:
            tree = random_tree(rng, rng.randrange(1, 10), truth[len(done) :], rightness=0.8)
            work: list[Work] = [Verify(sequence=B), verify_of(A, tree)]
            recorder = Recorder(tuple(max_above))
            root_row = sum(whole.num_pending(name) for name in (A, B)) - 1
            whole.step([Verify(sequence=B), Draft(sequence=A, nodes=tuple(tree))], hook=recorder)
            above = {layer: ranks_above(model, hidden, tree, root_row) for layer, hidden in recorder.hidden.items()}
            left = left_after(tree, above, {layer: policy.max_above(layer) for layer in max_above}, counts)
            step = pruned_step(engine, pruner, work)
            verdict = step.outcomes[1]
            assert isinstance(verdict, Verdict)
            assert {index for index, said in enumerate(verdict.feedback) if said.pruned} == set(left)
            assert step.report.num_rows_pruned == len(left)
            for index, layer in left.items():
                token, parent = tree[index]
                if parent == ROOT or parent in verdict.accepted:
                    place = 0 if parent == ROOT else 1 + verdict.accepted.index(parent)
                    counts[layer].num_known += 1
                    counts[layer].num_wrong += truth[len(done) + place] == token
            done += verdict.tokens
            whole.drop_nodes(A)
            whole.commit(A, verdict.tokens)
            assert done == truth[: len(done)]
    for layer, count in counts.items():
        rates = policy.rates(layer)
        assert rates.num_checked == pytest.approx(count.num_checked)
        assert rates.prune_rate == pytest.approx(count.num_pruned / max(count.num_checked, 1))
        assert rates.misprune_rate == pytest.approx(count.num_wrong / max(count.num_known, 1))
    assert sum(count.num_pruned for count in counts.values()) > 8
    if temperature == 1.0:  # right nodes were among them
        assert sum(count.num_wrong for count in counts.values()) > 0


def pruned_step(engine: Engine, pruner: Pruner, work: Sequence[Work]) -> StepResult:
    look = pruner.begin(work, cost_of())
    assert isinstance(look, PruningLook)
    step = engine.step(work, hook=look)
    pruner.settle(look, work, step.outcomes)
    return step


def test_rows_of_prompts_and_drafts_stay_and_others_are_judged_where_they_lie(model: Model) -> None:
    engine, policy = model.engine(), policy_of({0: 1, 1: 1})
    pruner = Pruner(engine, policy)
    for name in (A, B, C):
        engine.open(name, random_tokens(random.Random(1), 9), GREEDY)
    truth = Alone(model, is_compiled=True).decode(engine.tokens_of(C), GREEDY, 3)
    wrong = next(token for token in range(5, 320) if token not in truth)
    work: list[Work] = [
        Draft(sequence=A, nodes=((wrong, ROOT), (wrong, 0))),
        Verify(sequence=B, num_pending=4),
        verify_of(C, [(wrong, ROOT), (truth[0], ROOT), (wrong, 0)]),
    ]
    step = pruned_step(engine, pruner, work)
    assert step.report.num_rows_pruned <= 3
    verdict = step.outcomes[2]
    assert isinstance(verdict, Verdict)
    assert list(verdict.tokens) == truth[: len(verdict.tokens)]
    assert verdict.feedback[0].pruned
    assert verdict.feedback[2].pruned
    assert policy.rates(0).num_checked == 3


def test_a_k_beyond_the_vocabulary_prunes_nothing(model: Model) -> None:
    engine, policy = model.engine(), policy_of({0: 320})
    pruner = Pruner(engine, policy)
    engine.open(A, [9, 8, 7], GREEDY)
    step = pruned_step(engine, pruner, [verify_of(A, [(token, ROOT) for token in range(5, 60)])])
    assert step.report.num_rows_pruned == 0
    assert policy.rates(0).prune_rate == 0.0


def test_there_is_no_look_where_there_is_nothing_to_look_at(model: Model) -> None:
    engine = model.engine()
    pruner = Pruner(engine, policy_of({1: 8}))
    engine.open(A, [9, 8, 7], GREEDY)
    engine.open(B, [9, 8, 7], GREEDY)
    work: list[Work] = [Verify(sequence=A), Draft(sequence=B, nodes=((5, ROOT),))]
    assert pruner.begin(work, cost_of()) is None


class SlowPolicy(PruningPolicy):
    """Takes a second for each look."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__({1: 8})
        self._clock = clock

    def stay(
        self,
        layer: int,
        num_above: NDArray[np.int64],
        parents: NDArray[np.int64],
        droppable: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        self._clock.advance(1.0)
        return super().stay(layer, num_above, parents, droppable)


@pytest.mark.parametrize(("row_s", "num_looks"), [(1e-3, 3), (100.0, 16)])
def test_looks_that_take_longer_than_they_save_are_given_up(model: Model, row_s: float, num_looks: int) -> None:
    clock = VirtualClock()
    engine, seen = model.engine(), 0
    pruner = Pruner(engine, SlowPolicy(clock), clock=clock)
    tree = [(token, ROOT) for token in range(5, 37)]
    for index in range(16):
        name = SequenceId(f"{index}")
        engine.open(name, [9, 8, 7], GREEDY)
        work = [verify_of(name, tree)]
        look = pruner.begin(work, cost_of(row_s=row_s))
        step = engine.step(work, hook=look)
        if look is not None:
            pruner.settle(look, work, step.outcomes)
            seen += 1
    # 64 rows have to be seen before a rate is known; 32 come with each step, and fade a little.
    assert seen == num_looks


def test_what_cannot_be_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = model.engine()
    with pytest.raises(InvalidArgument, match=r"after layers \(3,\) of 3"):
        Pruner(engine, policy_of({3: 8}))
    monkeypatch.setattr(SingleRank, "size", 2)
    with pytest.raises(TopologyError, match="whole vocabulary on one rank, and the engine has 2"):
        Pruner(engine, policy_of({1: 8}))
