"""A drafter node: it says what its drafter would, each node once, about the present state of each sequence, and no
sequence suffers from another."""

from __future__ import annotations

import random

import pytest

from contracts.clock import SystemClock, VirtualClock
from contracts.config import DrafterConfig
from contracts.types import ROOT, DrafterId, SamplingParams, StepReport
from specfleet.v1 import fleet_pb2, types_pb2
from tests.workers.drafter_node.node_rig import Path, Talk, at_once, commit, node_of, same, tree_of, want
from tests.workers.drafters.model_rig import GREEDY, MAX_CONTEXT, NOISY, Rig, model, random_tokens
from tests.workers.drafters.rig import ALL_KINDS, sentences
from tests.workers.router_side import opening
from workers.drafter_node.answers import AtOnce
from workers.drafter_node.hosting import hosted, speed_of
from workers.drafter_node.memories import Memories
from workers.drafter_node.node import DrafterNode
from workers.drafter_node.with_model import speed_of_engine
from workers.drafters.drafter import Ask, Commit, Opening
from workers.drafters.memory import MemoryDrafter
from workers.drafters.registry import Setup, make_drafter
from workers.wire import sequence_id


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("sampling", [GREEDY, NOISY])
def test_it_says_what_its_drafter_would(sampling: SamplingParams, *, runs_ahead: bool) -> None:
    rng = random.Random(0)
    talk, truth = Talk(node_of(Rig(model()))), Rig(model())
    texts = {n: random_tokens(rng, 20 + 7 * n) for n in range(3)}
    below = {0: (), 1: (40, 41), 2: ()}
    limits = {0: {}, 1: {"max_children": 2}, 2: {"max_depth": 3}}
    for n, text in texts.items():
        talk.open(n, text, sampling)
        talk.want(n, 12, below=below[n], run_ahead=runs_ahead, **limits[n])
        truth.open(sequence_id(n), text, sampling)
    talk.finish()
    for n in texts:
        ask = Ask(sequence=sequence_id(n), num_nodes=12, below=below[n], **limits[n])
        (tree,) = truth.drafter.propose([ask])
        assert same(talk.heard[n].tree, tree_of(tree, below[n]))
        assert talk.heard[n].is_complete
    assert not runs_ahead or talk.num_messages > 3, "nodes leave as they are found"
    assert runs_ahead or talk.num_messages <= 3, "or each answer as a whole"
    assert {step.num_sequences for step in talk.steps} >= {3}, "sequences share steps"
    assert not talk.node.has_work


def test_run_ahead_goes_on_by_itself_and_tells_no_node_twice() -> None:
    rng = random.Random(1)
    talk, truth = Talk(node_of(Rig(model()))), Rig(model())
    text = random_tokens(rng, 20)
    talk.open(1, text, NOISY)
    talk.want(1, 16, run_ahead=True)
    truth.open(sequence_id(1), text, NOISY)
    num_compared = 0
    for turn in range(12):
        for _ in range(turn % 4):  # a decision may come at any time
            talk.step()
        if turn % 3 == 2:
            talk.finish()
            assert talk.heard[1].is_complete
            (tree,) = truth.drafter.propose([Ask(sequence=sequence_id(1), num_nodes=16)])
            assert tree_of(tree).keys() <= talk.heard[1].tree.keys()
            num_compared += len(tree)
        before = dict(talk.heard[1].tree)
        path = max(before, key=lambda path: (len(path), path), default=())
        tokens = [*path[: rng.randrange(3)], rng.choice([rng.randrange(5, 320), *(p[0] for p in before)])]
        talk.decide(1, tokens)
        truth.commit(sequence_id(1), talk.position[1] - len(tokens), tokens)
    assert num_compared > 0


def test_what_survives_a_decision_is_not_sent_again() -> None:
    talk = Talk(node_of(Rig(model())))
    talk.open(1, random_tokens(random.Random(2), 20))
    talk.want(1, 24, run_ahead=True)
    talk.finish()
    first = max(talk.heard[1].tree, key=lambda path: (sum(p[:1] == path[:1] for p in talk.heard[1].tree), path))[:1]
    survivors = {path[1:] for path in talk.heard[1].tree if path[:1] == first and len(path) > 1}
    assert survivors
    talk.decide(1, first)
    drafts = [draft for _ in range(3) for draft in talk.step().drafts]
    assert talk.heard[1].tree.keys() >= survivors
    assert sum(len(draft.nodes) for draft in drafts) == len(talk.heard[1].tree) - len(survivors)


def test_what_no_round_waits_for_is_gathered_and_never_lost() -> None:
    text = random_tokens(random.Random(4), 20)

    def paths_by(num_eager: int, *, late: bool, run_ahead: bool = True) -> tuple[set[Path], int]:
        """All paths that were told, from the text's end down, and in how many messages."""
        clock = VirtualClock()
        node, told, num_messages = node_of(Rig(model()), clock=clock), set(), 0
        node.take(fleet_pb2.DrafterWork(open=[opening(1, text)]))
        node.take(fleet_pb2.DrafterWork(want=[want(1, len(text), 20, num_eager=num_eager, run_ahead=run_ahead)]))
        while node.has_work:
            clock.advance(0.01 if late else 0.0)
            drafts = node.draft().drafts
            num_messages += bool(drafts)
            for draft in drafts:
                paths: list[Path] = []
                for each in draft.nodes:
                    paths.append((*(tuple(draft.below) if each.parent == ROOT else paths[each.parent]), each.token))
                told |= set(paths)
        return told, num_messages

    everything, most = paths_by(0, late=False)
    assert len(everything) == 20
    gathered, few = paths_by(4, late=False)
    assert gathered == everything
    assert 2 <= few < most
    in_time, more = paths_by(4, late=True)
    assert in_time == everything
    assert few < more < most, "nothing is held back for long"
    assert paths_by(0, late=True, run_ahead=False) == (everything, 1), "in turn a round waits for all of it"


def test_without_run_ahead_there_is_one_answer() -> None:
    talk = Talk(node_of(Rig(model())))
    talk.open(1, random_tokens(random.Random(3), 20))
    talk.want(1, 6)
    talk.finish()
    assert talk.heard[1].is_complete
    talk.decide(1, [50])
    assert not talk.node.has_work
    talk.want(1, 6)
    talk.step()
    talk.decide(1, [51])  # in the middle of it: nobody waits for it any more
    talk.finish()
    assert not talk.heard[1].tree
    talk.want(1, 6)
    talk.finish()
    assert len(talk.heard[1].tree) == 6


def test_a_new_want_replaces_the_old_one() -> None:
    talk = Talk(node_of(Rig(model())))
    talk.open(1, random_tokens(random.Random(4), 20))
    talk.want(1, 64, run_ahead=True)
    talk.step()
    told = set(talk.heard[1].tree)
    talk.want(1, 2, max_children=1)
    talk.finish()
    assert len(talk.heard[1].tree) <= len(told) + 2
    talk.want(1, 64, run_ahead=True)
    talk.step()
    talk.want(1, 0)  # only follow
    assert not any(talk.step().drafts for _ in range(3))
    talk.decide(1, [50])
    assert not talk.node.has_work


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_kinds_without_a_model_answer_at_once(kind: str) -> None:
    made = [make_drafter(kind, Setup(drafter="d", vocab_size=200)) for _ in range(2)]  # type: ignore[arg-type]  # a name
    talk, truth = Talk(at_once(made[0])), made[1]
    text = sentences(300, seed=1)
    for number in (1, 2):
        talk.open(number, text[:200])
        truth.open([Opening(sequence=sequence_id(number), tenant="", tokens=text[:200])])  # type: ignore[arg-type]
    talk.want(1, 8, run_ahead=True)
    talk.want(2, 8)
    for position in range(200, 220, 2):
        num_messages = talk.num_messages
        talk.finish()
        assert talk.num_messages == num_messages + 1
        (tree,) = truth.propose([Ask(sequence=sequence_id(1), num_nodes=8)])
        assert tree_of(tree).keys() <= talk.heard[1].tree.keys()
        assert talk.heard[1].is_complete
        assert talk.heard[2].is_complete == (position == 200)
        tokens = text[position : position + 2]
        for number in (1, 2):
            talk.decide(number, tokens)
            truth.commit([Commit(sequence=sequence_id(number), position=position, tokens=tokens)])


def test_log_probabilities_reach_those_who_learn_from_them() -> None:
    recycling = make_drafter("recycling", Setup(drafter="d", vocab_size=200))  # type: ignore[arg-type]  # a name
    talk = Talk(at_once(recycling))
    talk.open(1, [1, 2, 3])
    message = commit(1, 3, [4])
    message.logprobs.append(
        types_pb2.TokenLogprob(
            token=4,
            logprob=-0.1,
            top=[types_pb2.TokenLogprob.Alternative(token=token, logprob=-0.1 - token) for token in (4, 77)],
        )
    )
    talk.node.take(fleet_pb2.DrafterWork(commit=[message, commit(1, 4, [3])]))
    talk.position[1] = 5
    talk.want(1, 4)
    talk.finish()
    assert {(4,), (77,)} <= talk.heard[1].tree.keys()


def test_messages_about_another_state_are_dropped_and_counted() -> None:
    node = node_of(Rig(model()))
    text = random_tokens(random.Random(5), 20)
    node.take(fleet_pb2.DrafterWork(open=[opening(n, text, epoch=3) for n in (1, 2, 3)]))
    node.take(fleet_pb2.DrafterWork(open=[opening(1, text[:5], epoch=2), opening(1, text[:5], epoch=3)]))
    old = [commit(1, 20, [5], epoch=2), commit(1, 19, [5], epoch=3), commit(9, 1, [5])]
    node.take(fleet_pb2.DrafterWork(commit=old, want=[want(1, 20, 4, epoch=2)]))
    assert node.num_stale == 5
    # What is ahead shows that something is missing: the sequence is let go, and nobody has to wait for it.
    node.take(fleet_pb2.DrafterWork(commit=[commit(2, 21, [5], epoch=3)], want=[want(2, 22, 4, epoch=3)]))
    node.take(fleet_pb2.DrafterWork(want=[want(3, 20, 4, epoch=4)]))
    assert node.num_stale == 7
    node.take(fleet_pb2.DrafterWork(want=[want(1, 20, 4, epoch=3)]))
    drafts = node.draft().drafts
    while not any(draft.nodes for draft in drafts):
        drafts.extend(node.draft().drafts)
    silent = {(d.sequence, d.epoch, d.position) for d in drafts if d.is_last and not d.nodes}
    assert silent == {(1, 2, 20), (2, 3, 22), (3, 4, 20)}
    assert {draft.sequence for draft in drafts if draft.nodes} == {1}
    # A newer opening begins anew, with a close before it or without.
    node.take(fleet_pb2.DrafterWork(open=[opening(1, text[:5], epoch=4)], want=[want(1, 5, 4, epoch=4)]))
    node.take(fleet_pb2.DrafterWork(close=[1], open=[opening(1, text[:6], epoch=4)], want=[want(1, 6, 4, epoch=4)]))
    while node.has_work:
        assert {draft.position for draft in node.draft().drafts} <= {6}
    assert node.num_stale == 7


def test_a_sequence_that_cannot_be_followed_disturbs_no_other() -> None:
    talk = Talk(node_of(Rig(model(), num_blocks=12)))
    rng = random.Random(6)
    bad = opening(2, [5])
    bad.sampling.temperature = float("nan")
    talk.node.take(fleet_pb2.DrafterWork(open=[opening(3, [5, 400]), bad], close=[77]))
    talk.open(1, random_tokens(rng, 20))
    talk.open(4, random_tokens(rng, MAX_CONTEXT - 3))  # more than the cache holds
    talk.open(5, random_tokens(rng, 10))
    for number in (1, 4, 5):
        talk.want(number, 8, run_ahead=True)
    talk.node.take(fleet_pb2.DrafterWork(want=[want(5, 10, 4, below=[400])]))
    talk.finish()
    assert len(talk.heard[1].tree) == 8
    assert talk.heard[4].is_complete
    assert talk.heard[5].is_complete
    talk.decide(4, random_tokens(rng, 9))  # past the context
    talk.decide(1, [50])
    talk.finish()
    assert len(talk.heard[1].tree) >= 8
    talk.node.take(fleet_pb2.DrafterWork(commit=[commit(1, 21, [400])]))  # no such token: what is right is unknown
    talk.node.take(fleet_pb2.DrafterWork(commit=[commit(1, 22, [5])], want=[want(5, 10, 4)]))
    talk.finish()
    assert len(talk.heard[5].tree) == 4


def test_reset_forgets_all_and_begins_anew() -> None:
    rig = Rig(model())
    talk = Talk(node_of(rig))
    text = random_tokens(random.Random(7), 40)
    talk.open(1, text)
    talk.want(1, 8, run_ahead=True)
    talk.step()
    talk.node.reset()
    assert not talk.node.has_work
    assert rig.engine.num_free_blocks == rig.engine.pool.num_blocks
    talk.open(1, text)
    talk.want(1, 8)
    talk.finish()
    assert len(talk.heard[1].tree) == 8


def test_with_another_target_it_forgets_what_it_learned() -> None:
    drafter = make_drafter("lookahead", Setup(drafter=DrafterId("one"), vocab_size=200))
    assert isinstance(drafter, MemoryDrafter)
    memories = Memories(drafter, VirtualClock())
    node = DrafterNode(
        drafter,
        name="one",
        hello=fleet_pb2.FromWorker(),
        begin=lambda: AtOnce(drafter),
        steps=[],
        memories=memories,
    )
    for digest, num_left in (("a", 0), ("a", 1), ("b", 0)):
        node.reset()
        node._hear(fleet_pb2.ToWorker(target=fleet_pb2.Target(tokenizer_digest=digest)))
        assert (drafter.num_bytes() > 0) == num_left
        node.take(fleet_pb2.DrafterWork(open=[opening(0, sentences(50, 1), GREEDY)]))
        node.take(fleet_pb2.DrafterWork(commit=[commit(0, 50, sentences(50, 2))]))


def test_reports_of_steps_go_once() -> None:
    steps: list[StepReport] = []
    talk = Talk(node_of(Rig(model()), steps))
    talk.open(1, random_tokens(random.Random(8), 40))
    talk.want(1, 8, run_ahead=True)
    for number in range(1, 4):
        steps += [StepReport(num_rows=number, num_context=number, num_sequences=1, elapsed_s=0.5)] * number
        talk.step()
        assert not steps
    assert [step.num_rows for step in talk.steps] == [1, 2, 2, 3, 3, 3]


def test_no_want_is_without_bounds() -> None:
    drafter = make_drafter("prompt_lookup", Setup(drafter="d", vocab_size=200))  # type: ignore[arg-type]  # a name
    talk = Talk(at_once(drafter))
    talk.open(1, [1, 2] * 600)
    talk.want(1, 2**32 - 1, max_depth=2**32 - 1, max_children=2**32 - 1)
    talk.finish()
    assert 0 < len(talk.heard[1].tree) <= 1024


def test_speeds_are_measured() -> None:
    speed = speed_of_engine(Rig(model()).engine)
    assert 0.0 < speed.prefill_s_per_token < speed.step_s < 1.0
    clock = SystemClock()
    for kind in ALL_KINDS:
        plain = speed_of(make_drafter(kind, Setup(drafter="d", vocab_size=200)), clock)  # type: ignore[arg-type]
        assert 0.0 < plain.prefill_s_per_token < 0.01
        assert 0.0 < plain.step_s < 1.0


def test_drafters_introduce_themselves() -> None:
    with hosted("table", DrafterConfig(kind="recycling", capacity=9)) as node:
        hello = node.hello.drafter_hello
    assert (hello.name, hello.kind, hello.capacity, hello.has_logits) == ("table", "recycling", 9, False)
    assert hello.num_logprobs > 0
    assert not hello.HasField("model")
    assert hello.step_s > 0.0
