"""What the protocol promises, of every kind that needs no model."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import AlreadyExists, InvalidArgument, NotFound
from contracts.types import DrafterId, SequenceId
from tests.workers.drafters.rig import (
    ALL_KINDS,
    ONE,
    REMEMBERING,
    TWO,
    VOCAB_SIZE,
    A,
    B,
    accepted_lengths,
    check_tree,
    make,
    proposed,
    say,
    sentences,
    teach,
    top_of,
)
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.registry import KINDS, Setup, make_drafter

TOKENS = st.lists(st.integers(0, 5), max_size=60)


@pytest.mark.parametrize("kind", ALL_KINDS)
@settings(max_examples=25)
@given(prompt=TOKENS, answer=TOKENS, below=st.lists(st.integers(0, 5), max_size=5), num_nodes=st.integers(0, 40))
def test_trees_keep_their_promises_on_any_text(
    kind: str, prompt: list[int], answer: list[int], below: list[int], num_nodes: int
) -> None:
    drafter = make(kind)
    teach(drafter, A, answer, prompt)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=prompt)])
    tops = tuple(top_of(token, runners_up=(0, 3, 5)) for token in answer)
    drafter.commit([Commit(sequence=ONE, position=len(prompt), tokens=answer, logprobs=tops)])
    tree = proposed(drafter, ONE, num_nodes, tuple(below))
    assert all(node.drafter == kind for node in tree)


@pytest.mark.parametrize("kind", ALL_KINDS)
@settings(max_examples=25)
@given(prompt=TOKENS, answer=TOKENS, cuts=st.sets(st.integers(1, 59)))
def test_pieces_make_the_same_as_the_whole(kind: str, prompt: list[int], answer: list[int], cuts: set[int]) -> None:
    whole, pieces = make(kind), make(kind)
    for drafter in (whole, pieces):
        drafter.open([Opening(sequence=ONE, tenant=A, tokens=prompt)])
    tops = tuple(top_of(token, runners_up=(1, 2)) for token in answer)
    whole.commit([Commit(sequence=ONE, position=len(prompt), tokens=answer, logprobs=tops)])
    bounds = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    for start, end in pairwise(bounds):
        pieces.commit(
            [Commit(sequence=ONE, position=len(prompt) + start, tokens=answer[start:end], logprobs=tops[start:end])]
        )
    assert proposed(whole, ONE, 20) == proposed(pieces, ONE, 20)
    for drafter in (whole, pieces):
        drafter.close([ONE])
        drafter.open([Opening(sequence=TWO, tenant=A, tokens=[*prompt, *answer[:2]])])
    assert proposed(whole, TWO, 20) == proposed(pieces, TWO, 20)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_copying_is_learned(kind: str) -> None:
    """An answer that says what was said before: the later it is, the more is accepted."""
    drafter = make(kind)
    rng = random.Random(3)
    passage = rng.sample(range(VOCAB_SIZE), 60)
    first = accepted_lengths(drafter, [0], passage, 16)
    again = accepted_lengths(drafter, [0], passage * 3, 16)
    assert sum(first) <= 0.1 * 60
    assert len(again) <= 85  # of 180 tokens
    late = again[-max(1, len(again) // 4) :]
    assert sum(late) / len(late) >= 3.0, late


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_many_sequences_at_once_are_the_same_as_one_by_one(kind: str) -> None:
    names = [SequenceId(f"s{index}") for index in range(6)]
    texts = [sentences(80, seed) for seed in range(6)]
    together, alone = make(kind), make(kind)
    for drafter in (together, alone):
        teach(drafter, A, [1], texts[0])
    together.open([Opening(sequence=n, tenant=A, tokens=t[:50]) for n, t in zip(names, texts, strict=True)])
    together.commit([Commit(sequence=n, position=50, tokens=t[50:]) for n, t in zip(names, texts, strict=True)])
    for name, text in zip(names, texts, strict=True):
        alone.open([Opening(sequence=name, tenant=A, tokens=text[:50])])
    for name, text in zip(names, texts, strict=True):
        say(alone, name, 50, text[50:])
    asks = [Ask(sequence=name, num_nodes=12) for name in names]
    trees = together.propose(asks)
    assert trees == [alone.propose([ask])[0] for ask in asks]
    assert trees == together.propose(asks)  # proposing changes nothing
    assert any(trees)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_run_ahead_hangs_below_the_path(kind: str) -> None:
    phrase = list(range(10, 30))
    drafter = make(kind)
    teach(drafter, A, [1], phrase * 3)
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=[*phrase, 5, *phrase[:8]])])
    tree = proposed(drafter, ONE, 4, below=tuple(phrase[8:11]))
    assert tree[0].token == phrase[11]
    assert proposed(drafter, ONE, 4)[0].token == phrase[8]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_refused_has_changed_nothing(kind: str) -> None:
    drafter, untouched = make(kind), make(kind)
    for each in (drafter, untouched):
        each.open([Opening(sequence=ONE, tenant=A, tokens=sentences(60, 1))])
    good = Commit(sequence=ONE, position=60, tokens=[1, 2, 3])
    with pytest.raises(NotFound, match="'two' is not open"):
        drafter.commit([good, Commit(sequence=TWO, position=0, tokens=[1])])
    for wrong in (
        Commit(sequence=ONE, position=59, tokens=[1]),
        Commit(sequence=ONE, position=60, tokens=[VOCAB_SIZE]),
        Commit(sequence=ONE, position=60, tokens=[-1]),
        Commit(sequence=ONE, position=60, tokens=[True]),
        Commit(sequence=ONE, position=60, tokens=[1, 2], logprobs=(top_of(1),)),
        Commit(sequence=ONE, position=60, tokens=[1], logprobs=(top_of(1, [VOCAB_SIZE]),)),
    ):
        with pytest.raises(InvalidArgument):
            drafter.commit([wrong])
    with pytest.raises(InvalidArgument, match="named twice"):
        drafter.commit([good, good])
    with pytest.raises(AlreadyExists):
        drafter.open([Opening(sequence=TWO, tenant=A, tokens=[1]), Opening(sequence=ONE, tenant=A, tokens=[1])])
    with pytest.raises(InvalidArgument, match=r"in \[0, 200\)"):
        drafter.open([Opening(sequence=TWO, tenant=A, tokens=[1, 7000])])
    with pytest.raises(NotFound):
        drafter.close([ONE, TWO])
    with pytest.raises(InvalidArgument):
        drafter.propose([Ask(sequence=ONE, num_nodes=-1)])
    with pytest.raises(InvalidArgument):
        drafter.propose([Ask(sequence=ONE, num_nodes=4, below=(VOCAB_SIZE,))])
    with pytest.raises(NotFound):
        drafter.propose([Ask(sequence=TWO, num_nodes=4)])
    for each in (drafter, untouched):
        each.commit([good])
    assert proposed(drafter, ONE, 20) == proposed(untouched, ONE, 20)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_tenants_never_meet(kind: str) -> None:
    """What tenant A said changes no tree of tenant B's, whatever A said and in whatever order."""
    crowded, alone = make(kind), make(kind)
    text = sentences(150, 5, first=0)
    for seed in range(3):
        teach(crowded, A, text[:20], sentences(200, seed, first=100))
        teach(crowded, A, text[:20], [*text[20:60], 150, 151])  # says what B will say, and goes on otherwise
    crowded.open([Opening(sequence=TWO, tenant=A, tokens=sentences(50, 9, first=100))])
    for drafter in (crowded, alone):
        drafter.open([Opening(sequence=ONE, tenant=B, tokens=text[:100])])
        say(drafter, ONE, 100, text[100:])
    for below in ((), (150,), tuple(text[20:24]), (105, 106)):
        tree = proposed(crowded, ONE, 40, below)
        assert tree == proposed(alone, ONE, 40, below)
        assert all(node.token < 100 for node in tree)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_tenant_learns_from_its_own_earlier_sequences(kind: str) -> None:
    drafter = make(kind)
    passage = random.Random(1).sample(range(VOCAB_SIZE), 40)
    teach(drafter, A, passage[:1], passage[1:])
    for tenant, wanted in ((A, passage[5]), (B, None)):
        drafter.open([Opening(sequence=ONE, tenant=tenant, tokens=passage[1:5])])
        tree = proposed(drafter, ONE, 4)
        drafter.close([ONE])
        assert (tree[0].token if tree else None) == wanted


def test_nothing_is_proposed_where_nothing_is_known() -> None:
    for kind in ALL_KINDS:
        drafter = make(kind)
        drafter.open([Opening(sequence=ONE, tenant=A, tokens=[])])
        assert proposed(drafter, ONE, 10) == ()
        say(drafter, ONE, 0, [5])
        assert proposed(drafter, ONE, 10) == ()


def test_the_registry_knows_its_kinds() -> None:
    setup = Setup(drafter=DrafterId("d"), vocab_size=10)
    for kind in KINDS:
        assert make_drafter(kind, setup).kind == kind
    with pytest.raises(InvalidArgument) as refused:
        make_drafter("oracle", setup)
    assert "'oracle'" in str(refused.value)
    assert all(kind in str(refused.value) for kind in KINDS)
    with pytest.raises(InvalidArgument, match="vocab_size is 0"):
        make_drafter("stand", Setup(drafter=DrafterId("d"), vocab_size=0))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "no_such_module:Echo",
            "importing no_such_module fails: No module named 'no_such_module'; it must be a module in",
        ),
        ("contracts.errors:Echo", r"contracts\.errors has no class Echo; it must have one"),
        ("contracts.errors:status_of", r"contracts\.errors has no class status_of"),
        ("contracts.errors:NotFound", r"has no kind; it must have all of workers/drafters/drafter\.py"),
    ],
)
def test_a_class_that_is_no_drafter_is_refused(kind: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make_drafter(kind, Setup(drafter=DrafterId("mine"), vocab_size=10))


def test_the_checker_of_trees_sees_what_is_wrong() -> None:
    drafter = make("trigram")
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=sentences(200, 2))])
    tree = proposed(drafter, ONE, 12)
    assert len(tree) == 12
    with pytest.raises(AssertionError):
        check_tree(tree, 11)
    with pytest.raises(AssertionError):
        check_tree((*tree, tree[-1]), 20)
    with pytest.raises(AssertionError):
        check_tree(tree[::-1], 20)
