"""A drafter that only follows a sequence says how often it would have been right, and nothing else."""

from __future__ import annotations

import random

from specfleet.v1 import fleet_pb2
from tests.workers.drafter_node.node_rig import commit, node_of, want
from tests.workers.drafters.model_rig import NOISY, Rig, model, random_tokens
from tests.workers.router_side import opening
from workers.drafters.drafter import Ask
from workers.wire import sequence_id


def test_whoever_only_follows_says_how_often_it_agrees() -> None:
    rng = random.Random(5)
    rig, truth = Rig(model()), Rig(model())
    node = node_of(rig, agreement=rig.drafter.agreement)
    text, position = random_tokens(rng, 20), 20
    node.take(fleet_pb2.DrafterWork(open=[opening(1, text, NOISY)], want=[want(1, 20, 0)]))
    truth.open(sequence_id(1), text, NOISY)
    num_tokens = num_agreed = num_expected = num_decided = 0
    for _ in range(12):
        tokens: list[int] = []
        for _ in range(rng.randint(1, 4)):
            # What it would say here, and the target says so half of the time.
            (tree,) = truth.drafter.propose([Ask(sequence=sequence_id(1), num_nodes=1)])
            token = tree[0].token if rng.random() < 0.5 else 7
            num_expected += token == tree[0].token
            truth.commit(sequence_id(1), position + len(tokens), [token])
            tokens.append(token)
        node.take(fleet_pb2.DrafterWork(commit=[commit(1, position, tokens)]))
        position, num_decided = position + len(tokens), num_decided + len(tokens)
        while node.has_work:
            drafts = node.draft()
            assert not drafts.drafts
            for evidence in drafts.evidence:
                num_tokens, num_agreed = num_tokens + evidence.num_tokens, num_agreed + evidence.num_agreed
    assert num_decided - 6 < num_tokens <= num_decided, "all but the last few"
    assert num_expected - 6 <= num_agreed <= num_expected
    # Asked to draft, it does so from where the text is now; and what it drafted is no evidence afterwards.
    node.take(fleet_pb2.DrafterWork(want=[want(1, position, 4)]))
    while node.has_work:
        drafts = node.draft()
        assert not drafts.evidence
        assert {draft.position for draft in drafts.drafts} <= {position}
    node.take(fleet_pb2.DrafterWork(commit=[commit(1, position, [9])], want=[want(1, position + 1, 0)]))
    assert not node.has_work


def test_short_answers_teach_too_and_long_ones_a_few_tokens_at_a_time() -> None:
    rig = Rig(model())
    node = node_of(rig, agreement=rig.drafter.agreement)
    node.take(fleet_pb2.DrafterWork(open=[opening(1, random_tokens(random.Random(6), 20))], want=[want(1, 20, 0)]))
    scored: list[int] = []
    for position in range(20, 40):
        node.take(fleet_pb2.DrafterWork(commit=[commit(1, position, [7])]))
        while node.has_work:
            scored += [evidence.num_tokens for evidence in node.draft().evidence]
    assert scored == [2, 6, 6, 6]
