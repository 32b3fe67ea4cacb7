"""One sequence's drafting: late drafts find their place, silence counts, drafters come and go, and verdicts teach."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId, DraftNode, Epoch, Feedback, SequenceId, TenantId, Verdict
from speculation.calibration import Calibrator
from speculation.drafting import Drafting
from speculation.features import prompt_features
from speculation.fusion import voice_weight
from speculation.scores import ScoreKind

ANN, BEN, CAT = DrafterId("ann"), DrafterId("ben"), DrafterId("cat")
PROMPT = (5, 6, 7)


def new(*drafters: DrafterId, temperature: float = 0.0, max_nodes: int = 256) -> Drafting:
    drafting = Drafting(
        tenant=TenantId("tenant"),
        tokens=PROMPT,
        temperature=temperature,
        features=prompt_features(PROMPT),
        calibrator=Calibrator(),
        max_nodes=max_nodes,
    )
    for drafter in drafters or (ANN, BEN):
        drafting.join(drafter, 0.5, has_logits=True)
    return drafting


def nodes(*said: tuple[int, int, float], drafter: DrafterId = ANN) -> list[DraftNode]:
    """(token, parent, confidence)."""
    return [DraftNode(token=t, parent=p, confidence=c, drafter=drafter) for t, p, c in said]


def chain(*tokens: int, confidence: float = 0.6) -> list[DraftNode]:
    return nodes(*((token, index - 1, confidence) for index, token in enumerate(tokens)))


def verdict(drafting: Drafting, tokens: Sequence[int], feedback: tuple[Feedback, ...] = ()) -> Verdict:
    """What a target says that commits these tokens, about the frontier in flight."""
    accepted, parent = [], ROOT
    frontier = drafting.tree.in_flight
    offered = [] if frontier is None else list(frontier.nodes)
    for token in tokens[:-1]:
        (parent,) = [i for i, node in enumerate(offered) if (node.parent, node.token) == (parent, token)]
        accepted.append(parent)
    return Verdict(
        sequence=SequenceId("s"),
        epoch=Epoch(0),
        position=drafting.tree.next_position,
        accepted=tuple(accepted),
        tokens=tuple(tokens),
        feedback=feedback,
    )


def check(drafting: Drafting, tokens: Sequence[int], *, num_nodes: int = 100) -> None:
    """One round that commits these tokens; all but the last are in the tree."""
    drafting.tree.start(drafting.tree.frontier(num_nodes))
    drafting.settle(verdict(drafting, tokens))


def commit(drafting: Drafting, *tokens: int) -> None:
    """A round without drafts for each token."""
    for token in tokens:
        check(drafting, [token], num_nodes=0)


def test_a_late_draft_hangs_below_the_root_where_it_agrees_with_what_was_committed() -> None:
    drafting = new()
    commit(drafting, 1, 2)
    ids = drafting.take(ANN, chain(1, 2, 3, 4), position=3)
    assert ids[:2] == [None, None]
    assert sorted(drafting.tree.paths()) == [(3,), (3, 4)]
    assert [drafting.tree.path(node) for node in ids[2:] if node is not None] == [(3,), (3, 4)]
    assert drafting.tree.num_orphans == 0


def test_what_disagrees_is_an_orphan_with_all_below_it() -> None:
    drafting = new()
    commit(drafting, 1, 2)
    assert drafting.take(ANN, [*chain(1, 9, 3), *nodes((2, 0, 0.3), (7, 3, 0.4))], position=3)[4] is not None
    assert sorted(drafting.tree.paths()) == [(7,)]
    assert drafting.tree.num_orphans == 2


def test_below_is_walked_through_committed_tokens_and_then_through_the_tree() -> None:
    drafting = new()
    drafting.take(ANN, chain(1, 2, 3))
    commit(drafting, 1)
    drafting.take(BEN, nodes((8, ROOT, 0.5), drafter=BEN), position=3, below=(1, 2))
    assert sorted(drafting.tree.paths()) == [(2,), (2, 3), (2, 8)]
    assert drafting.take(BEN, nodes((8, ROOT, 0.5), drafter=BEN), position=3, below=(1, 4)) == [None]
    assert drafting.take(BEN, nodes((8, ROOT, 0.5), drafter=BEN), position=3, below=(9,)) == [None]
    assert drafting.tree.num_orphans == 2


@given(seed=st.integers(0, 2**32))
def test_late_or_in_time_the_tree_is_the_same(seed: int) -> None:
    """A draft that comes after commits gives the tree that it would have become by re-rooting."""
    rng = random.Random(seed)
    said = nodes(*((rng.randrange(3), rng.randrange(-1, index), rng.random()) for index in range(12)))
    truth = [rng.randrange(3) for _ in range(rng.randrange(1, 4))]
    in_time, late = new(), new()
    in_time.take(ANN, said)
    in_time.tree.commit(in_time.tree.next_position, truth)
    commit(late, *truth)
    late.take(ANN, said, position=len(PROMPT))
    # Depths are those of the root at the time; and a token said twice below a node counts once, at its best.
    assert set(late.tree.paths()) == set(in_time.tree.paths())
    assert late.tree.next_position == in_time.tree.next_position


@pytest.mark.parametrize("position", [2, 6])
def test_positions_before_the_answer_or_past_the_root_are_refused(position: int) -> None:
    drafting = new()
    commit(drafting, 1, 2)
    with pytest.raises(InvalidArgument, match=rf"position {position}; this sequence's are 3 to 5"):
        drafting.take(ANN, chain(1), position=position)
    assert len(drafting.tree) == 0


def test_nodes_that_form_no_tree_are_refused_before_any_is_taken() -> None:
    drafting = new()
    with pytest.raises(InvalidArgument, match="node 1 of ann has parent 1; it is -1 or an earlier node"):
        drafting.take(ANN, nodes((1, ROOT, 0.5), (2, 1, 0.5)))
    assert len(drafting.tree) == 0


def test_whoever_has_not_joined_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"drafter cat has not joined this sequence; known are \['ann', 'ben'\]"):
        new().take(CAT, chain(1))


def test_ids_are_of_nodes_that_are_still_there() -> None:
    drafting = new(max_nodes=2)
    ids = drafting.take(ANN, nodes((1, ROOT, 0.1), (2, ROOT, 0.2), (3, ROOT, 0.3), (4, ROOT, 0.35)))
    assert ids[:2] == [None, None]
    assert all(node is not None and node in drafting.tree for node in ids[2:])


def test_silence_counts_as_a_disagreement() -> None:
    drafting = new()
    before = drafting.scores.score(ANN)
    drafting.take(ANN, ())
    drafting.take(BEN, nodes((1, ROOT, 0.5), drafter=BEN))
    check(drafting, [1, 2])
    assert drafting.scores.score(ANN) < before
    assert drafting.scores.num_tokens(ANN) == 1.0
    check(drafting, [3], num_nodes=0)  # silence is of one round
    assert drafting.scores.num_tokens(ANN) < 1.0 + 1e-9


def test_silence_is_about_the_next_token_only() -> None:
    drafting = new()
    drafting.take(ANN, chain(1))
    drafting.take(ANN, (), below=(1,))  # nothing more to say below its own token
    commit(drafting, 1, 2)
    drafting.take(BEN, (), position=3)  # nothing to say about a token that is known by now
    commit(drafting, 3)
    assert drafting.scores.num_tokens(BEN) == 0.0
    assert [seen.agreement for seen in drafting.scores.agreements()] == [1.0]


def test_who_speaks_of_other_places_only_is_silent_about_the_next_token() -> None:
    drafting = new()
    drafting.take(ANN, chain(1))
    drafting.take(BEN, (), below=(9,))
    check(drafting, [1, 2])
    drafting.take(ANN, chain(1, 2))
    drafting.take(BEN, nodes((3, ROOT, 0.5), drafter=BEN), below=(1, 2))  # behind another's words
    check(drafting, [7])
    drafting.take(BEN, nodes((3, ROOT, 0.5), drafter=BEN), below=(5,))
    drafting.take(BEN, nodes((1, ROOT, 0.0), drafter=BEN))  # a word is a word, however unsure
    check(drafting, [1, 2])
    seen = {each.drafter: (each.agreement, each.num_tokens) for each in drafting.scores.agreements()}
    assert seen == {ANN: (0.5, 2), BEN: (pytest.approx(1 / 3), 3)}


def test_a_drafter_that_spoke_after_all_is_not_silent() -> None:
    drafting = new()
    drafting.take(ANN, ())
    drafting.take(ANN, chain(1))
    check(drafting, [1, 2])
    assert [(seen.agreement, seen.num_tokens) for seen in drafting.scores.agreements()] == [(1.0, 1)]


def test_only_the_first_choice_of_a_position_is_scored() -> None:
    drafting = new()
    drafting.take(ANN, nodes((1, ROOT, 0.5), (2, ROOT, 0.3), (3, ROOT, 0.1), (4, 0, 0.6), (5, 0, 0.3)))
    check(drafting, [1, 5, 9])
    assert [(seen.agreement, seen.num_tokens) for seen in drafting.scores.agreements()] == [(0.5, 2)]


def test_calibration_hears_of_every_child_of_an_accepted_node_at_its_own_kind() -> None:
    drafting = new(ANN, temperature=0.7)
    drafting.join(BEN, 0.5, has_logits=False)
    calibrator = drafting._calibrator
    for _ in range(40):
        drafting.take(ANN, nodes((1, ROOT, 0.9)))
        drafting.take(BEN, nodes((2, ROOT, 0.1), drafter=BEN))
        check(drafting, [2, 3])
    assert calibrator.confidence(ANN, ScoreKind.MARGIN, 1, 0.9) < 0.2
    assert calibrator.confidence(BEN, ScoreKind.COUNTED, 1, 0.1) > 0.6
    assert calibrator.confidence(ANN, ScoreKind.PROBABILITY, 1, 0.9) == pytest.approx(0.9)
    (node,) = drafting.take(ANN, nodes((1, ROOT, 0.9)))
    assert node is not None
    assert drafting.tree[node].said[ANN].confidence < 0.2
    assert drafting.tree[node].said[ANN].score == 0.9


def test_accepted_length_is_told_of_rounds_with_nodes_only() -> None:
    drafting = new()
    start = drafting.accepted_length.length
    commit(drafting, 1, 2)
    assert drafting.accepted_length.length == start
    drafting.take(ANN, chain(9))
    check(drafting, [8])
    assert drafting.accepted_length.length < start


def test_a_stale_verdict_changes_nothing() -> None:
    drafting = new()
    old = verdict(drafting, [1])
    commit(drafting, 1)
    drafting.take(ANN, chain(4))
    before = drafting.tree.paths()
    assert drafting.settle(old).stale
    assert drafting.tree.paths() == before
    assert drafting.scores.agreements() == []
    drafting.take(ANN, chain(1, 4), position=3)  # and the committed tokens are still right
    assert sorted(drafting.tree.paths()) == [(4,)]


def test_a_drafter_that_leaves_takes_what_it_alone_said() -> None:
    drafting = new()
    drafting.drafters = (ANN, BEN)
    drafting.take(ANN, nodes((1, ROOT, 0.5), (2, 0, 0.5)))
    drafting.take(BEN, nodes((1, ROOT, 0.4), (3, ROOT, 0.3), drafter=BEN))
    drafting.leave(ANN)
    assert sorted(drafting.tree.paths()) == [(1,), (3,)]
    assert list(drafting.drafters) == [BEN]
    assert drafting.members == {BEN}
    with pytest.raises(InvalidArgument, match="ann has not joined"):
        drafting.take(ANN, chain(1))


def test_a_drafter_may_leave_while_its_nodes_are_checked() -> None:
    drafting = new()
    drafting.take(ANN, chain(1, 2))
    drafting.tree.start(drafting.tree.frontier(2))
    drafting.leave(ANN)
    settled = drafting.settle(verdict(drafting, [1, 2, 3]))
    assert settled.num_accepted == 2
    assert drafting.scores.agreements() == []
    drafting.leave(ANN)  # twice is once


def test_voices_count_by_how_well_they_can_be_expected_to_agree_here() -> None:
    drafting = new(ANN)
    commit(drafting, 1)
    drafting.join(CAT, 0.25, has_logits=True)
    drafting.drafters = (ANN, CAT)
    drafting.take(ANN, nodes((2, ROOT, 0.5)))
    both, alone = drafting.take(CAT, nodes((2, ROOT, 0.5), (3, ROOT, 0.4), drafter=CAT))
    assert both is not None
    assert alone is not None
    weight = voice_weight(drafting.scores.score(CAT), drafting.scores.score(ANN))
    assert weight < 0.1
    assert drafting.tree[both].claimed == pytest.approx(1.0 - 0.5 * (1.0 - 0.5 * weight))
    assert drafting.tree[alone].claimed == pytest.approx(0.4 * weight)
    assert drafting.tree[alone].said[CAT].confidence == 0.4  # its own word is not changed, and is what it is held to
    drafting.drafters = (CAT,)
    (node,) = drafting.take(CAT, nodes((4, ROOT, 0.2), drafter=CAT))
    assert node is not None
    assert drafting.tree[node].claimed == pytest.approx(0.2)  # nobody better drafts beside it


def test_pruned_nodes_are_no_evidence() -> None:
    drafting = new()
    drafting.take(ANN, chain(1))
    drafting.tree.start(drafting.tree.frontier(1))
    pruned = (Feedback(parent_accepted=True, chosen=False, pruned=True),)
    drafting.settle(verdict(drafting, [1], pruned))
    assert drafting.scores.agreements() == []
