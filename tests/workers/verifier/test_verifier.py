"""A verifier behind its wire: the tokens of plain decoding, whatever is proposed, and nothing that a router can say
harms it or the other sequences."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contracts.clock import SystemClock
from contracts.config import EngineConfig
from contracts.errors import RankLost
from contracts.types import ROOT, SamplingParams, SequenceId
from engine.engine import Engine
from engine.load import LoadedEngine
from engine.local_group import local_engine
from engine.text.tokenizer import Tokenizer
from engine.work import Verify
from specfleet.v1 import fleet_pb2
from speculation.pruning import PruningGate, PruningPolicy
from tests.engine.checkpoints import write_checkpoint
from tests.workers.router_side import Peer, RouterSide, item, joined, opening
from workers.process import serve
from workers.pruning import Pruner
from workers.verifier.hello import hello_of, probe
from workers.verifier.node import VerifierNode

GREEDY = SamplingParams()
NOISY = SamplingParams(temperature=0.8, top_p=0.95, presence_penalty=0.4, seed=2**64 - 1, num_logprobs=2)
BIASED = SamplingParams(temperature=0.7, seed=3, logit_bias={17: 6.0}, allowed_token_ids=tuple(range(10, 60)))
NUM_NEW = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "llama")


def config_of(folder: Path, *, num_ranks: int = 1) -> EngineConfig:
    return EngineConfig(
        model=str(folder),
        dtype="float32",
        device="cpu",
        num_threads=1,
        tensor_parallel=num_ranks,
        kv_cache_bytes=2**20,
        max_batch_rows=64,
        step_deadline_s=20.0,
    )


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[LoadedEngine]:
    with local_engine(config_of(folder)) as engine:
        yield engine


@pytest.fixture
def node(loaded: LoadedEngine) -> Iterator[VerifierNode]:
    """Every test finds the engine empty, and must leave it so."""
    made = node_of(loaded)
    yield made
    made.reset()
    assert loaded.engine.num_free_blocks == loaded.engine.pool.num_blocks


def node_of(loaded: LoadedEngine) -> VerifierNode:
    return VerifierNode(loaded.engine, name="verifier", hello=hello_of("verifier", loaded, []))


def plain(engine: Engine, prompt: Sequence[int], sampling: SamplingParams) -> list[int]:
    """What the engine says without any of this."""
    name = SequenceId("plain")
    engine.open(name, prompt, sampling)
    while len(engine.tokens_of(name)) < len(prompt) + NUM_NEW:
        engine.step([Verify(sequence=name)])
    tokens = list(engine.tokens_of(name))
    engine.close(name)
    return tokens


def prompts() -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(5, 320) for _ in range(size)] for size in (37, 5, 18)]


async def decode(peer: Peer, truths: Sequence[Sequence[int]], samplings: Sequence[SamplingParams]) -> list[list[int]]:
    """All sequences side by side, prompts in chunks, with frontiers that are right for a while."""
    rng = random.Random(2)
    texts = prompts()
    num_left = [len(text) for text in texts]  # of the prompt, to compute
    opens = [opening(n, text, samplings[n]) for n, text in enumerate(texts)]
    number = 0
    while any(len(text) < len(truth) for text, truth in zip(texts, truths, strict=True)):
        items = []
        for n, (text, truth) in enumerate(zip(texts, truths, strict=True)):
            if num_left[n] > 16:
                items.append(item(n, len(text), num_pending=16))
                num_left[n] -= 16
            elif len(text) < len(truth):
                items.append(item(n, len(text), frontier(rng, truth[len(text) :])))
                num_left[n] = 0
        number += 1
        done = await peer.round(items, number=number, open=opens)
        assert not done.failures
        opens = []
        for verdict in done.verdicts:
            text = texts[verdict.sequence]
            assert (verdict.epoch, verdict.position) == (0, len(text))
            assert len(verdict.tokens) == len(verdict.accepted) + 1
            num_logprobs = samplings[verdict.sequence].num_logprobs
            assert [len(found.top) for found in verdict.logprobs] == [num_logprobs] * len(verdict.logprobs)
            assert len(verdict.logprobs) == (len(verdict.tokens) if num_logprobs else 0)
            text += verdict.tokens
    work = fleet_pb2.VerifierWork(close=range(len(texts)))
    await peer.send(fleet_pb2.ToWorker(verifier_work=work))
    assert number < sum(len(truth) for truth in truths) - sum(map(len, prompts())), "some were accepted"
    return [text[: len(truth)] for text, truth in zip(texts, truths, strict=True)]


def frontier(rng: random.Random, truth: Sequence[int]) -> list[tuple[int, int]]:
    """A path that is right up to some depth, with a wrong sibling at each place."""
    nodes: list[tuple[int, int]] = []
    parent = ROOT
    for token in truth[: rng.randrange(4)]:
        right = token if rng.random() < 0.8 else 9
        nodes += [(11, parent), (right, parent)] if right != 11 else [(right, parent)]
        parent = len(nodes) - 1
    return nodes


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_verdicts_are_those_of_plain_decoding(folder: Path, num_ranks: int) -> None:
    samplings = [NOISY, GREEDY, BIASED]
    with local_engine(config_of(folder, num_ranks=num_ranks)) as loaded:
        truths = [plain(loaded.engine, *pair) for pair in zip(prompts(), samplings, strict=True)]

        async def run() -> list[list[int]]:
            async with joined(node_of(loaded)) as peer:
                assert peer.hello.verifier_hello.num_ranks == num_ranks
                return await decode(peer, truths, samplings)

        assert asyncio.run(run()) == truths
        if num_ranks > 1:
            lose_a_rank(loaded)


def test_rows_that_are_hopeless_leave_and_the_text_stays(folder: Path) -> None:
    with local_engine(config_of(folder)) as loaded:
        truths = [plain(loaded.engine, prompt, GREEDY) for prompt in prompts()]
        policy = PruningPolicy({0: 150}, lowest=8, highest=320)
        gate = PruningGate(policy, num_layers=2, probe_every=1)  # looks at every round
        pruner = Pruner(loaded.engine, policy, gate=gate)
        node = VerifierNode(loaded.engine, name="verifier", hello=hello_of("verifier", loaded, []), pruner=pruner)

        async def run() -> list[list[int]]:
            async with joined(node) as peer:
                # It has to know what rounds cost before it can say what a look would save.
                await peer.round([item(9, 2)], number=0, open=[opening(9, [5, 6])])
                return await decode(peer, truths, [GREEDY] * 3)

        assert asyncio.run(run()) == truths
        assert policy.rates(0).num_checked > 0
        assert 0.0 < policy.rates(0).prune_rate < 1.0
        node.reset()


def lose_a_rank(loaded: LoadedEngine) -> None:
    """The router hears nothing of a round that was lost with it, and the process ends with the reason."""

    async def run() -> None:
        async with RouterSide() as router:
            serving = asyncio.create_task(serve(node_of(loaded), router=router.address, stop=asyncio.Event()))
            peer = await router.joined()
            (follower,) = multiprocessing.active_children()
            follower.kill()
            follower.join()
            work = fleet_pb2.VerifierWork(open=[opening(100, [5])], round=fleet_pb2.Round(items=[item(100, 1)]))
            await peer.send(fleet_pb2.ToWorker(verifier_work=work))
            await asyncio.wait_for(serving, 60)

    with pytest.raises(RankLost, match="lost touch with its group of 2"):
        asyncio.run(run())


def test_it_says_who_it_is(loaded: LoadedEngine, folder: Path, tmp_path: Path) -> None:
    probes = probe(loaded.engine, SystemClock(), most_s=0.5)
    hello = hello_of("verifier", loaded, probes).verifier_hello
    limits = loaded.engine.limits
    assert (hello.name, hello.num_ranks, hello.device, hello.block_tokens) == ("verifier", 1, "cpu", 16)
    assert (hello.max_context, hello.max_batch_rows) == (limits.max_context, 64)
    assert (hello.num_blocks, hello.num_real_tokens) == (loaded.engine.num_free_blocks, 320)
    assert list(hello.eos_token_ids) == [1]
    assert hello.model.weights_digest == loaded.engine.identity.weights_digest
    assert {1, 64} <= {report.num_rows for report in probes}, "the corners come first"
    for name, content in hello.tokenizer_files.items():
        (tmp_path / name).write_bytes(content)
    assert Tokenizer.load(tmp_path).digest == hello.model.tokenizer_digest
    assert "config.json" in hello.tokenizer_files
    assert not any(name.endswith(".safetensors") for name in hello.tokenizer_files)


def test_probing_takes_no_longer_than_it_may(loaded: LoadedEngine) -> None:
    """Its time begins with the first report, for which a cold GPU may have compiled for long."""
    assert len(probe(loaded.engine, SystemClock(), most_s=0.0)) == 1
    assert loaded.engine.num_free_blocks == loaded.engine.pool.num_blocks, "nothing of it stays"


def test_what_is_stale_is_told_so_and_the_others_are_served(node: VerifierNode, loaded: LoadedEngine) -> None:
    node.work(fleet_pb2.VerifierWork(open=[opening(1, [5, 6], epoch=3), opening(2, [7])]))
    stale = [item(1, 2, epoch=2), item(1, 2, epoch=4), item(1, 1, epoch=3), item(1, 3, epoch=3), item(9, 2)]
    for old in stale:
        done = node.work(fleet_pb2.VerifierWork(round=fleet_pb2.Round(round=4, items=[old, item(2, 1)])))
        assert done is not None
        assert [(f.sequence, f.epoch, f.code) for f in done.failures] == [(old.sequence, old.epoch, "Stale")]
        assert [verdict.sequence for verdict in done.verdicts] == [2]
        node.work(fleet_pb2.VerifierWork(close=[2], open=[opening(2, [7])]))
    assert node.num_stale == len(stale)
    # An opening that is not newer changes nothing; a newer one begins anew.
    node.work(fleet_pb2.VerifierWork(open=[opening(1, [8], epoch=3), opening(1, [8], epoch=1)]))
    assert loaded.engine.tokens_of(SequenceId("1")) == (5, 6)
    node.work(fleet_pb2.VerifierWork(open=[opening(1, [8], epoch=4)]))
    assert loaded.engine.tokens_of(SequenceId("1")) == (8,)


def test_what_makes_no_sense_fails_alone(node: VerifierNode) -> None:
    refused = [
        opening(1, []),
        opening(2, [320]),
        opening(3, [5] * 600),
        opening(4, [5], num_prompt=2),
        opening(5, [5]),
        opening(6, [5], SamplingParams(logit_bias={400: 1.0})),
    ]
    refused[4].sampling.temperature = -1.0
    node.work(fleet_pb2.VerifierWork(open=[*refused, opening(7, [5]), opening(8, [5])], close=[99]))
    nonsense = item(8, 1, [(9, ROOT)])
    nonsense.nodes[0].confidence = float("nan")
    items = [item(each.sequence, len(each.tokens)) for each in refused]
    done = node.work(fleet_pb2.VerifierWork(round=fleet_pb2.Round(items=[*items, nonsense, item(7, 1)])))
    assert done is not None
    assert {failure.code for failure in done.failures} == {"InvalidArgument"}
    assert [failure.sequence for failure in done.failures] == [1, 2, 3, 4, 5, 6, 8]
    assert "temperature is -1.0" in done.failures[4].reason
    assert [verdict.sequence for verdict in done.verdicts] == [7]


def test_what_is_refused_for_want_of_room_stays_as_it_was(node: VerifierNode, loaded: LoadedEngine) -> None:
    def ask(*items: fleet_pb2.Round.Item) -> fleet_pb2.RoundDone:
        done = node.work(fleet_pb2.VerifierWork(round=fleet_pb2.Round(items=items)))
        assert done is not None
        assert done.num_free_blocks == loaded.engine.num_free_blocks
        return done

    # Texts of 64 tokens, one after another, until there is no room for two more.
    num_texts = loaded.engine.pool.num_blocks // 4
    texts = {n: [5 + n % 300] * 64 for n in range(num_texts + 1)}
    node.work(fleet_pb2.VerifierWork(open=[opening(n, text, tenant=str(n)) for n, text in texts.items()]))
    for n in range(num_texts - 1):
        assert len(ask(item(n, 64)).verdicts) == 1
    both = [item(n, 64, num_pending=32) for n in (num_texts - 1, num_texts)]
    assert not ask(*both).failures
    done = ask(*both, item(500, 1))
    assert [(f.sequence, f.code) for f in done.failures] == [
        (500, "Stale"),
        (num_texts - 1, "OutOfBlocks"),
        (num_texts, "OutOfBlocks"),
    ]
    assert not done.HasField("report"), "no step, no cost"
    done = ask(*both, item(0, 65))  # for which there is room
    assert [verdict.sequence for verdict in done.verdicts] == [0]
    assert [f.sequence for f in done.failures] == [num_texts - 1, num_texts]
    node.work(fleet_pb2.VerifierWork(close=[1]))
    assert [len(ask(item(0, 66)).verdicts), len(ask(item(num_texts, 64)).verdicts)] == [1, 1]
    # More rows than a step may have.
    node.work(fleet_pb2.VerifierWork(close=texts, open=[opening(0, [5] * 60), opening(1, [6] * 60)]))
    done = ask(item(0, 60), item(1, 60))
    assert [verdict.sequence for verdict in done.verdicts] == [0]
    assert [(f.sequence, f.code) for f in done.failures] == [(1, "InvalidArgument")]
    assert len(ask(item(1, 60)).verdicts) == 1


def test_an_item_that_no_step_can_hold_fails_alone(node: VerifierNode) -> None:
    node.work(fleet_pb2.VerifierWork(open=[opening(n, [5 + n] * 3) for n in range(6)]))
    bad = [
        item(1, 3, [(320, ROOT)]),  # a token that is none
        item(2, 3, num_pending=2, nodes=[(9, ROOT)]),  # nodes below what is not computed
        item(3, 3, masks=[b"\x01"]),  # a mask of another size
        item(0, 3),  # a second time
    ]
    done = node.work(fleet_pb2.VerifierWork(round=fleet_pb2.Round(items=[item(0, 3), *bad, item(4, 3), item(5, 3)])))
    assert done is not None
    assert [verdict.sequence for verdict in done.verdicts] == [0, 4, 5]
    assert [(failure.sequence, failure.code) for failure in done.failures] == [
        (number, "InvalidArgument") for number in (1, 2, 3, 0)
    ]
    assert done.report.num_sequences == 3


def test_a_round_says_what_the_prefix_cache_had_of_those_opened_since_the_last(node: VerifierNode) -> None:
    text = list(range(5, 55))  # three blocks and two tokens

    def cached(tenant: str, numbers: Sequence[int]) -> dict[int, int]:
        opens = [opening(number, text, tenant=tenant) for number in numbers]
        items = [item(number, 50) for number in numbers]
        done = node.work(fleet_pb2.VerifierWork(open=opens, round=fleet_pb2.Round(items=items)))
        assert done is not None
        assert len(done.verdicts) == len(numbers)
        return {each.sequence: each.num_tokens for each in done.cached}

    assert cached("a", [1]) == {1: 0}
    assert cached("a", [2, 3]) == {2: 48, 3: 48}
    assert cached("b", [4]) == {4: 0}, "no tenant's text is found by another"
    assert cached("b", []) == {}


def test_a_chunk_of_a_prompt_decides_nothing_even_if_the_cache_has_the_rest(node: VerifierNode) -> None:
    text = list(range(5, 45))  # two blocks and a half
    for first, expected_rows in ((1, [16, 16, 8]), (2, [7, 1])):
        node.work(fleet_pb2.VerifierWork(open=[opening(first, text)]))
        rows = []
        for num_pending in (16, 16, None):
            message = fleet_pb2.Round(items=[item(first, 40, num_pending=num_pending)])
            done = node.work(fleet_pb2.VerifierWork(round=message))
            assert done is not None
            assert not done.failures
            assert len(done.verdicts) == (num_pending is None)
            rows += [done.report.num_rows] if done.HasField("report") else []
        assert rows == expected_rows


def test_masks_forbid_and_an_empty_one_allows_all(node: VerifierNode, loaded: LoadedEngine) -> None:
    only_42 = bytearray(40)
    only_42[42 // 8] |= 1 << 42 % 8
    (free,) = plain(loaded.engine, [5, 6, 7], GREEDY)[3:4]
    for masks, expected in (([bytes(only_42)], 42), ([b""], free)):
        work = fleet_pb2.VerifierWork(open=[opening(1, [5, 6, 7])])
        work.round.items.append(item(1, 3, masks=masks))
        done = node.work(work)
        assert done is not None
        assert list(done.verdicts[0].tokens) == [expected]
        node.reset()


def test_it_goes_on_by_itself_and_says_with_what(folder: Path) -> None:
    with local_engine(config_of(folder)) as loaded:
        prompt = prompts()[1]
        truth = plain(loaded.engine, prompt, GREEDY)[len(prompt) :]
        num = len(prompt)
        # The first round checks one node; what hangs below it is right for two tokens more.
        nodes = [
            fleet_pb2.DraftNode(token=token, parent=index - 1, confidence=0.9) for index, token in enumerate(truth[:4])
        ]

        def sequel(
            number: int, position: int, nodes: Sequence[fleet_pb2.DraftNode], **limits: float
        ) -> fleet_pb2.Sequel:
            about = fleet_pb2.Sequel.Item(sequence=1, position=position, nodes=nodes, max_nodes=5, num_left=20)
            return fleet_pb2.Sequel(round=number, after=number - 1, items=[about], max_rows=9, **limits)

        async def run() -> None:
            async with joined(node_of(loaded)) as peer:

                async def said() -> fleet_pb2.RoundDone:
                    return (await peer.hear()).round_done

                work = fleet_pb2.VerifierWork(open=[opening(1, prompt)], sequel=sequel(1, num, nodes))
                work.round.CopyFrom(fleet_pb2.Round(round=0, items=[item(1, num, [(truth[0], ROOT)])]))
                await peer.send(fleet_pb2.ToWorker(verifier_work=work))
                first = await said()
                assert [list(verdict.tokens) for verdict in first.verdicts] == [truth[:2]]
                assert [(going.position, list(going.nodes)) for going in first.going_on] == [(num + 2, [2, 3])]
                second = await said()
                assert (second.round, list(second.verdicts[0].tokens)) == (1, truth[2:5])
                assert not second.going_on, "nothing was said of what comes after it"
                # A sequel of a round that is long over says nothing; one that asks for too much is not begun.
                late = fleet_pb2.VerifierWork(sequel=sequel(1, num, nodes))
                await peer.send(fleet_pb2.ToWorker(verifier_work=late))
                for number, limits in ((7, {"min_tokens": 1.5}), (8, {})):
                    work = fleet_pb2.VerifierWork(sequel=sequel(number + 1, num + number - 2, [], **limits))
                    work.round.CopyFrom(fleet_pb2.Round(round=number, items=[item(1, num + number - 2)]))
                    await peer.send(fleet_pb2.ToWorker(verifier_work=work))
                    assert bool((await said()).going_on) is (number == 8)
                last = await said()
                assert (last.round, list(last.verdicts[0].tokens)) == (9, truth[7:8])
                await peer.send(fleet_pb2.ToWorker(verifier_work=fleet_pb2.VerifierWork(close=[1])))

        asyncio.run(run())


def test_nothing_that_a_router_says_ends_it(node: VerifierNode) -> None:
    async def run() -> None:
        async with joined(node) as peer:
            for nonsense in (b"\xff\xff\xff", b"", fleet_pb2.ToWorker()):
                await peer.send(nonsense)
            await peer.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(close=[1])))
            done = await peer.round([item(1, 1), item(2, 1)], open=[opening(1, [5])])
            assert [verdict.sequence for verdict in done.verdicts] == [1]
            assert [failure.code for failure in done.failures] == ["Stale"]
            empty = await peer.round([], number=2)
            assert not empty.verdicts

    asyncio.run(run())


def test_told_to_drain_it_finishes_and_leaves(node: VerifierNode) -> None:
    async def run() -> None:
        async with RouterSide() as router:
            serving = asyncio.create_task(serve(node, router=router.address, stop=asyncio.Event()))
            peer = await router.joined()
            for number in range(1, 4):
                message = fleet_pb2.Round(round=number, items=[item(number, 1)])
                work = fleet_pb2.VerifierWork(open=[opening(number, [5])], round=message)
                await peer.send(fleet_pb2.ToWorker(verifier_work=work))
            await peer.send(fleet_pb2.ToWorker(drain=fleet_pb2.Drain()))
            assert [(await peer.hear()).round_done.round for _ in range(3)] == [1, 2, 3]
            await asyncio.wait_for(serving, 60)
            await asyncio.wait_for(peer.is_over.wait(), 60)

    asyncio.run(run())
