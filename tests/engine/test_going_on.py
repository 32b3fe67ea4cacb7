"""A step that goes on by itself finds what the steps would have found that nobody had to ask for."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import OutOfBlocks
from contracts.types import ROOT, SamplingParams, SequenceId
from engine.engine import Engine
from engine.work import Draft, Drafted, Verify
from tests.engine.conftest import ModelMaker
from tests.engine.rig import GREEDY, Model, random_tokens, same_bits, step_with_logits

A, B = SequenceId("a"), SequenceId("b")
NOISY = SamplingParams(temperature=0.9, seed=5)


def drafted(engine: Engine, work: Draft, num_top: int = 3) -> Drafted:
    outcome = engine.step([work], num_top=num_top).outcomes[0]
    assert isinstance(outcome, Drafted)
    return outcome


def one_by_one(engine: Engine, work: Draft, count: int) -> Drafted:
    """The same by steps that are asked for."""
    found = drafted(engine, dataclasses.replace(work, num_more=0))
    proposals, more, below = list(found.proposals), list[int](), work.more_below
    first = found.first_node + len(work.nodes)
    for index in range(count):
        (best,) = [proposal.candidates[0].token for proposal in proposals if proposal.parent == below]
        proposals += drafted(engine, Draft(sequence=work.sequence, nodes=((best, below),))).proposals
        more.append(best)
        below = first + index
    return Drafted(first_node=found.first_node, proposals=tuple(proposals), more=tuple(more))


@pytest.mark.parametrize("sampling", [GREEDY, NOISY], ids=["greedy", "noisy"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_finds_what_single_steps_find(model_of: ModelMaker, dtype: str, sampling: SamplingParams) -> None:
    """Candidates, nodes, what hangs below them later, and what a commit makes of them: bit for bit."""
    model = model_of(dtype)

    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        rng = random.Random(seed)
        by_itself, asked = model.engine(), model.engine()
        tokens = random_tokens(rng, rng.choice([1, 14, 16, 40]))
        for engine in (by_itself, asked):
            engine.open(A, tokens, sampling)
        num_nodes = 0
        for _ in range(4):
            is_root_new = asked.num_pending(A) > 0
            parents = [rng.randrange(-1, num_nodes + i) for i in range(rng.randrange(0 if is_root_new else 1, 4))]
            nodes = tuple((rng.randrange(5, 320), parent) for parent in parents)
            places = [*([ROOT] if is_root_new else []), *range(num_nodes, num_nodes + len(nodes))]
            work = Draft(sequence=A, nodes=nodes, num_more=rng.randrange(1, 6), more_below=rng.choice(places))
            found, expected = drafted(by_itself, work), one_by_one(asked, work, work.num_more)
            assert found == expected
            num_nodes += len(nodes) + len(found.more)
            if rng.random() < 0.5:
                decided = [*found.more[: rng.randrange(len(found.more) + 1)], rng.randrange(5, 320)]
                kept = [engine.commit(A, decided) for engine in (by_itself, asked)]
                assert kept[0] == kept[1]
                num_nodes = len(kept[0])
        for engine in (by_itself, asked):
            engine.commit(A, [7])
        (mine,), (theirs,) = (step_with_logits(engine, [Verify(sequence=A)])[1] for engine in (by_itself, asked))
        assert same_bits(mine, theirs)
        for engine in (by_itself, asked):
            engine.close(A)
            engine.pool.check()
            assert engine.num_free_blocks == engine.pool.num_blocks

    check()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(repetition_penalty=1.2),
        SamplingParams(presence_penalty=0.5),
        SamplingParams(logit_bias={7: 1.0}),
        SamplingParams(allowed_token_ids=tuple(range(5, 300))),
        SamplingParams(temperature=1.0, top_k=5, seed=1),
        SamplingParams(num_logprobs=2),
    ],
    ids=["repetition", "presence", "bias", "allowed", "top-k", "logprobs"],
)
def test_where_more_than_noise_makes_tokens_of_logits_it_leaves_that_to_others(
    model: Model, sampling: SamplingParams
) -> None:
    engine = model.engine()
    engine.open(A, [9, 8, 7], sampling)
    found = drafted(engine, Draft(sequence=A, num_more=4))
    assert found.more == ()
    assert [proposal.parent for proposal in found.proposals] == [ROOT]


def test_a_step_layer_by_layer_or_for_several_does_not(model: Model) -> None:
    by_layers = model.engine(is_compiled=False)
    by_layers.open(A, [9, 8, 7], GREEDY)
    assert drafted(by_layers, Draft(sequence=A, num_more=4)).more == ()
    engine = model.engine()
    for name in (A, B):
        engine.open(name, [9, 8, 7], GREEDY)
    outcomes = engine.step([Draft(sequence=A, num_more=4), Draft(sequence=B)]).outcomes
    assert [outcome.more for outcome in outcomes if isinstance(outcome, Drafted)] == [(), ()]


def test_while_a_prompt_is_read_it_does_not(model: Model) -> None:
    engine = model.engine()
    engine.open(A, list(range(5, 25)), GREEDY)
    assert drafted(engine, Draft(sequence=A, num_pending=7, num_more=4)) == Drafted(first_node=0, proposals=())
    assert len(drafted(engine, Draft(sequence=A, num_more=4)).more) == 4


def test_it_goes_no_further_than_there_is_room(model: Model) -> None:
    few_rows = model.engine(max_batch_rows=5)
    few_rows.open(A, [9, 8, 7], GREEDY)
    assert len(drafted(few_rows, Draft(sequence=A, num_more=4)).more) == 2
    full = model.engine(num_blocks=1)
    full.open(A, list(range(5, 19)), GREEDY)
    assert drafted(full, Draft(sequence=A, num_more=4)).more == (), "a block for two more tokens is not one for four"
    with pytest.raises(OutOfBlocks):
        full.step([Draft(sequence=A, nodes=((7, ROOT), (7, ROOT)))])
    context = model.weights.shard.config.max_context
    long = model.engine(num_blocks=200, max_batch_rows=4096)
    long.open(A, random_tokens(random.Random(1), context - 2), GREEDY)
    assert len(drafted(long, Draft(sequence=A, num_more=4)).more) == 2


def test_where_nothing_can_be_chosen_it_ends(model: Model) -> None:
    whole = model.engine()
    whole.open(A, [9, 8, 7], GREEDY)
    right = drafted(whole, Draft(sequence=A, num_more=4))
    sound = model.weights.final_norm.clone()
    model.weights.final_norm.fill_(float("nan"))
    try:
        engine = model.engine()
        engine.open(A, [9, 8, 7], GREEDY)
        found = drafted(engine, Draft(sequence=A, num_more=4))
    finally:
        model.weights.final_norm.copy_(sound)
    assert (found.more, [proposal.candidates for proposal in found.proposals]) == ((), [()])
    assert engine.commit(A, right.more[:1]) == {}, "of what was to be there is no node"
    engine.close(A)
    engine.pool.check()
