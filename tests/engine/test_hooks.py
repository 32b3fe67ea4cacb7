"""Between layers: what a hook sees is the model's own, and dropping nodes never changes the text."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import ROOT, Feedback, SamplingParams, SequenceId, Verdict
from engine.work import Draft, Verify
from tests.engine.checkpoints import write_checkpoint
from tests.engine.conftest import ModelMaker
from tests.engine.rig import GREEDY, Alone, Model, random_tokens, random_tree, same_bits, step_with_logits, verify_of

A, B = SequenceId("a"), SequenceId("b")


class Look:
    """A hook that keeps what it saw, and drops what it is told to."""

    def __init__(self, *layers: int, keep: Callable[[torch.Tensor], torch.Tensor | None] = lambda rows: None) -> None:
        self.layers, self._keep = layers, keep
        self.seen: dict[int, torch.Tensor] = {}
        self.rows: dict[int, list[int]] = {}

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
        self.seen[layer], self.rows[layer] = hidden.clone(), rows.tolist()
        return self._keep(rows)


class RandomDrops:
    """Drops some of the rows of nodes, and remembers which nodes they were."""

    def __init__(self, rng: random.Random, rows: range) -> None:
        self._rng, self._rows = rng, rows
        self.dropped: set[int] = set()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        keep = [row not in self._rows or self._rng.random() >= 0.3 for row in rows.tolist()]
        self.dropped.update(row - self._rows.start for row, stays in zip(rows.tolist(), keep, strict=True) if not stays)
        return torch.tensor(keep)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_hidden_states_are_those_of_transformers(tmp_path_factory: pytest.TempPathFactory, is_compiled: bool) -> None:
    folder = write_checkpoint(tmp_path_factory.mktemp("hooks") / "model", "qwen2")
    prompt = random_tokens(random.Random(0), 21)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
    engine, look = Model.load(folder, "float32").engine(is_compiled=is_compiled), Look(0, 1)
    engine.open(A, prompt, GREEDY)
    engine.step([Verify(sequence=A)], hook=look)
    for layer in look.layers:  # transformers lists what goes into each layer
        assert look.seen[layer].dtype == torch.float32
        assert (look.seen[layer] - expected[layer + 1][0]).abs().max() < 1e-4
        assert look.rows[layer] == list(range(21))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_look_changes_no_bit_and_sees_the_same_both_ways(model_of: ModelMaker, dtype: str) -> None:
    model, prompt = model_of(dtype), random_tokens(random.Random(1), 19)
    looks = [Look(0, 1), Look(0, 1)]
    logits = []
    for is_compiled, look in [(True, looks[0]), (False, looks[1]), (True, None)]:
        engine = model.engine(is_compiled=is_compiled)
        engine.open(A, prompt, GREEDY)
        logits.append(step_with_logits(engine, [verify_of(A, [(7, ROOT), (8, ROOT), (9, 1)])], hook=look)[1][0])
    assert same_bits(logits[0], logits[1])
    assert same_bits(logits[0], logits[2])
    for layer in (0, 1):
        assert same_bits(looks[0].seen[layer], looks[1].seen[layer])


@pytest.mark.parametrize("is_compiled", [True, False])
def test_dropping_nodes_changes_how_many_tokens_a_round_settles_and_no_token(model: Model, is_compiled: bool) -> None:
    alone = Alone(model, is_compiled=is_compiled)
    num_lost = 0

    @settings(max_examples=25)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        nonlocal num_lost
        rng = random.Random(seed)
        sampling = SamplingParams(temperature=0.8, presence_penalty=0.3, seed=seed)
        prompt = random_tokens(rng, rng.randrange(1, 20))
        truth = alone.decode(prompt, sampling, 14)
        engine = model.engine(is_compiled=is_compiled)
        engine.open(A, prompt, sampling)
        engine.open(B, prompt[::-1], GREEDY)
        done: list[int] = []
        while len(done) < 8:
            tree = random_tree(rng, rng.randrange(1, 12), truth[len(done) :])
            num_committed = engine.num_pending(A)
            drop = RandomDrops(rng, range(num_committed, num_committed + len(tree)))
            result = engine.step([verify_of(A, tree), Verify(sequence=B)], hook=Look(0, 1, keep=drop))
            verdict = result.outcomes[0]
            assert isinstance(verdict, Verdict)
            assert result.report.num_rows_pruned == len(drop.dropped)
            assert {index for index, said in enumerate(verdict.feedback) if said.pruned} == drop.dropped
            assert not drop.dropped & set(verdict.accepted)
            num_lost += spelled(tree, truth[len(done) :]) - len(verdict.accepted)
            done += verdict.tokens
            assert done == truth[: len(done)]

    check()
    assert num_lost > 10  # right nodes were among the dropped


def spelled(tree: list[tuple[int, int]], truth: list[int]) -> int:
    """How many nodes would be accepted if none was dropped."""
    at, count = ROOT, 0
    for token in truth:
        found = [index for index, said in enumerate(tree) if said == (token, at)]
        if not found:
            break
        at, count = found[0], count + 1
    return count


def test_feedback_says_which_nodes_were_tested(model: Model) -> None:
    prompt = [9, 8, 7]
    truth = Alone(model, is_compiled=True).decode(prompt, GREEDY, 3)
    wrong = 5 if truth[0] != 5 else 6
    tree = [(truth[0], ROOT), (wrong, ROOT), (truth[1], 0), (wrong, 1)]
    engine = model.engine()
    engine.open(A, prompt, GREEDY)
    look = Look(0, keep=lambda rows: rows != 3 + 2)
    verdict = engine.step([verify_of(A, tree)], hook=look).outcomes[0]
    assert isinstance(verdict, Verdict)
    assert list(verdict.tokens) == truth[:2]
    assert verdict.feedback == (
        Feedback(parent_accepted=True, chosen=True),
        Feedback(parent_accepted=True, chosen=False),
        Feedback(parent_accepted=True, chosen=False, pruned=True),
        Feedback(parent_accepted=False, chosen=False),
    )


def refuse(message: str, keep: Callable[[torch.Tensor], torch.Tensor], model: Model) -> None:
    """The step is refused with the message, and all is as before: the same step without the hook gives the same."""
    alone = Alone(model, is_compiled=True)
    engine, prompt = model.engine(), random_tokens(random.Random(2), 17)
    engine.open(A, prompt, GREEDY)
    engine.step([Draft(sequence=A, nodes=((7, ROOT), (8, ROOT), (9, 1)))])
    engine.commit(A, [8, 9])  # leaves a copy to make
    free = engine.num_free_blocks
    with pytest.raises(InvalidArgument, match=message):
        engine.step([Draft(sequence=A, nodes=((10, ROOT), (11, ROOT), (12, 1)))], hook=Look(1, keep=keep))
    engine.pool.check()
    assert engine.num_free_blocks == free
    assert engine.tokens_of(A) == (*prompt, 8, 9)
    _, (logits,) = step_with_logits(engine, [Draft(sequence=A, nodes=((10, ROOT), (11, ROOT), (12, 1)))])
    for row, path in zip(logits, ([10], [11], [11, 12]), strict=True):
        assert same_bits(row, alone.logits_after([*prompt, 8, 9, *path]))


def test_rows_that_later_steps_read_cannot_be_dropped(model: Model) -> None:
    refuse(r"dropped rows \[2\], whose keys later steps will read", lambda rows: rows != 2, model)
    engine = model.engine()
    engine.open(A, [9, 8, 7], GREEDY)
    with pytest.raises(InvalidArgument, match=r"dropped rows \[1\], whose keys"):
        engine.step([verify_of(A, [(10, ROOT)])], hook=Look(0, keep=lambda rows: rows != 1))
    assert engine.num_free_blocks == engine.pool.num_blocks
    engine.step([verify_of(A, [(10, ROOT)])])


def test_an_answer_of_the_wrong_shape_is_refused(model: Model) -> None:
    refuse(r"bool \[3\], got torch.bool \[4\]", lambda rows: torch.ones(4, dtype=torch.bool), model)
    refuse(r"bool \[3\], got torch.float32 \[3\]", lambda rows: torch.ones(3), model)


@pytest.mark.parametrize("layers", [(2,), (-1,), (1, 0), (0, 0)])
def test_layers_that_are_not_there_are_refused(model: Model, layers: tuple[int, ...]) -> None:
    engine = model.engine()
    engine.open(A, [9, 8, 7], GREEDY)
    with pytest.raises(InvalidArgument, match="must rise and lie between 0 and 1"):
        engine.step([Verify(sequence=A)], hook=Look(*layers))
