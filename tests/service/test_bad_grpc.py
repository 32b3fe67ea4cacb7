"""Whatever arrives at the gRPC port, from clients or from workers: a clear answer, and the fleet goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from contracts.config import DrafterConfig
from contracts.errors import InvalidArgument
from router.front import Asked, Front, Request
from router.inference_service import InferenceService
from specfleet import AsyncClient
from specfleet.errors import InvalidRequest, NotFound
from specfleet.v1 import fleet_pb2, inference_pb2_grpc, types_pb2
from specfleet.v1 import inference_pb2 as pb
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import DEADLINE_S, RunningFleet, engine_of, running_fleet

CHECKOUT = Path(__file__).resolve().parents[2]
INFERENCE, JOIN = "/specfleet.v1.Inference", "/specfleet.v1.Fleet/Join"
NO_MESSAGE = b"\xff" * 50
TOO_SHORT = b"\x0a\xff\xff\xff\xff\x0f"  # says that 4 GB of text follow
BROKEN_TEXT = b"\x0a\x02\xff\xfe"  # in the first field, which is a string in all of these
BROKEN_PROMPTS = (b"\x1a\x02\xff\xfe", b"\x2a\x05\x0a\x03\x0a\x01\xff")  # as text, and in a chat
Scene = Callable[[RunningFleet], Awaitable[None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bad-grpc") / "tiny", "llama")


def play(folder: Path, scene: Scene) -> None:
    async def run() -> None:
        drafters = {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}
        async with running_fleet(engine_of(folder), drafters) as fleet:
            expected = (await fleet.say("the cat", max_tokens=8)).tokens
            await scene(fleet)
            assert (await fleet.say("the cat", max_tokens=8)).tokens == expected
            assert set(fleet.router.fleet.streams) == {"verifier", "twin"}

    asyncio.run(run())


async def refusal(call: AsyncIterator[bytes] | Awaitable[bytes]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(_whole(call), DEADLINE_S)
    return refused.value


async def _whole(call: AsyncIterator[bytes] | Awaitable[bytes]) -> None:
    if isinstance(call, AsyncIterator):
        _ = [answer async for answer in call]
    else:
        await call


async def each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def test_messages_that_are_none_are_the_senders_fault(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        channel: Any = fleet.channel
        for content in (NO_MESSAGE, TOO_SHORT, BROKEN_TEXT):
            for method in ("Generate", "Resume"):
                error = await refusal(aiter(channel.unary_stream(f"{INFERENCE}/{method}")(content)))
                assert (error.code().name, "unpacked" in (error.details() or "")) == ("INVALID_ARGUMENT", True)
            for method in ("Cancel", "CountTokens"):
                error = await refusal(channel.unary_unary(f"{INFERENCE}/{method}")(content))
                assert (error.code().name, "unpacked" in (error.details() or "")) == ("INVALID_ARGUMENT", True)
            error = await refusal(aiter(channel.stream_stream(JOIN)(each([content]))))
            assert (error.code().name, "unpacked" in (error.details() or "")) == ("INVALID_ARGUMENT", True)
        for content in BROKEN_PROMPTS:
            error = await refusal(aiter(channel.unary_stream(f"{INFERENCE}/Generate")(content)))
            assert "UTF-8" in (error.details() or "")
        assert (await refusal(channel.unary_unary(f"{INFERENCE}/Nothing")(b""))).code().name == "UNIMPLEMENTED"
        huge = pb.GenerateRequest(prompt="x" * (65 * 2**20)).SerializeToString()
        wide: Any = grpc.aio.insecure_channel(fleet.address, options=[("grpc.max_send_message_length", -1)])
        async with wide:
            error = await refusal(aiter(wide.unary_stream(f"{INFERENCE}/Generate")(huge)))
        assert error.code().name == "RESOURCE_EXHAUSTED"

    play(folder, scene)


@pytest.mark.parametrize("letter", ["x", "é", "🐈"])
def test_a_refusal_reaches_its_client_however_long_its_reason_is(letter: str) -> None:
    class Wordy:
        async def generate(self, asked: Asked) -> Request:
            raise InvalidArgument(f"the reason is {letter * 10_000}", details={"field": "f"}, retry_after_s=1.0)

    async def scene() -> None:
        server = grpc.aio.server()
        inference_pb2_grpc.add_InferenceServicer_to_server(InferenceService(cast(Front, Wordy())), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = inference_pb2_grpc.InferenceStub(channel).Generate(pb.GenerateRequest(prompt="a"))
            error = await refusal(aiter(call))
        await server.stop(None)
        assert error.code().name == "INVALID_ARGUMENT"
        assert f"the reason is {letter * 100}" in (error.details() or "")

    asyncio.run(scene())


def test_what_is_not_grpc_at_all_is_hung_up_on(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        headers = b"\x00\x40\x00\x01\x04\x00\x00\x00\x01"  # of 16 kB, and then they are none
        for content in (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x00" * 5000,
            preface + b"\xff" * 5000,
            preface + settings + headers + b"\xff" * 20_000,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", fleet.router.port)
            writer.write(content)
            async with asyncio.timeout(DEADLINE_S):
                with contextlib.suppress(ConnectionError):  # another way to hang up
                    await reader.read()
            writer.close()

    play(folder, scene)


def hello(name: str, **fields: object) -> bytes:
    drafter = fleet_pb2.DrafterHello(name=name, kind="x", capacity=4, step_s=0.001, max_context=512)
    drafter.MergeFrom(fleet_pb2.DrafterHello(**fields))  # type: ignore[arg-type]
    return fleet_pb2.FromWorker(drafter_hello=drafter).SerializeToString()


def test_workers_that_do_not_introduce_themselves_stay_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.fleet_service._HELLO_S", 0.2)
    early = fleet_pb2.FromWorker(drafts=fleet_pb2.Drafts()).SerializeToString()
    verifier = fleet_pb2.FromWorker(verifier_hello=fleet_pb2.VerifierHello(name="v")).SerializeToString()
    nameless = fleet_pb2.FromWorker(drafter_hello=fleet_pb2.DrafterHello()).SerializeToString()
    endless = fleet_pb2.FromWorker(drafter_hello=fleet_pb2.DrafterHello(name="x" * 10_000)).SerializeToString()
    cases: list[tuple[list[bytes], str]] = [
        ([], "INVALID_ARGUMENT"),
        ([b""], "INVALID_ARGUMENT"),
        ([early], "INVALID_ARGUMENT"),
        ([verifier], "INVALID_ARGUMENT"),
        ([nameless], "INVALID_ARGUMENT"),
        ([endless], "INVALID_ARGUMENT"),
        ([hello("slow", step_s=float("nan"))], "INVALID_ARGUMENT"),
        ([hello("verifier")], "ALREADY_EXISTS"),  # which would have thrown the verifier out
        ([hello("other", model=types_pb2.ModelIdentity(tokenizer_digest="no"))], "INVALID_ARGUMENT"),
        ([hello("twice"), hello("twice")], "INVALID_ARGUMENT"),
        ([hello("broken"), b"\xff"], "INVALID_ARGUMENT"),
    ]

    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def scene(fleet: RunningFleet) -> None:
        channel: Any = fleet.channel
        join = channel.stream_stream(JOIN)
        for messages, code in cases:
            error = await refusal(aiter(join(each(messages))))
            assert (error.code().name, bool(error.details())) == (code, True), messages
        error = await refusal(aiter(join(silent())))
        assert (error.code().name, "says nothing" in (error.details() or "")) == ("DEADLINE_EXCEEDED", True)

    play(folder, scene)


def test_a_drafter_that_says_anything_at_all_changes_no_token(folder: Path) -> None:
    rng = random.Random(3)

    def nonsense(token_limit: int) -> bytes:
        drafts = [
            fleet_pb2.Draft(
                sequence=rng.choice([0, rng.randrange(12), 2**64 - 1]),
                epoch=rng.choice([0, 0, 1, 2**32 - 1]),
                position=rng.choice([rng.randrange(40), 2**32 - 1]),
                below=[rng.randrange(2**32) for _ in range(rng.randrange(3))],
                nodes=[
                    fleet_pb2.DraftNode(
                        token=rng.randrange(token_limit),
                        parent=rng.randrange(-1, index) if index else -1,
                        confidence=rng.choice([0.0, 0.5, 1.0, 0.99]),
                    )
                    for index in range(rng.randrange(6))
                ],
                is_last=rng.random() < 0.5,
            )
            for _ in range(rng.randrange(5))
        ]
        message = fleet_pb2.Drafts(drafts=drafts, began_s=1.0, ended_s=rng.choice([0.0, 1.0, 2.0]))
        return fleet_pb2.FromWorker(drafts=message).SerializeToString()

    async def chatter() -> AsyncIterator[bytes]:
        yield hello("liar", has_logits=True)
        while True:
            yield nonsense(320)
            await asyncio.sleep(0.002)

    async def scene(fleet: RunningFleet) -> None:
        expected = [(await fleet.say(f"text {seed}", mode="off", seed=seed)).tokens for seed in range(6)]
        channel: Any = fleet.channel
        lying = channel.stream_stream(JOIN)(chatter())
        assert await lying.read()
        said = await asyncio.gather(
            *(fleet.say(f"text {seed}", mode=mode, seed=seed) for seed in range(6) for mode in ("fleet", "pearl"))
        )
        assert [each.tokens for each in said[::2]] == expected
        assert [each.tokens for each in said[1::2]] == expected
        lying.cancel()
        # And some that are refused for good, in the middle of it.
        for bad in ({"token": 2**32 - 1, "parent": -1}, {"token": 5, "parent": 7}, {"token": 5, "confidence": 7.0}):
            nodes = [fleet_pb2.DraftNode(**bad)]
            drafts = fleet_pb2.Drafts(drafts=[fleet_pb2.Draft(sequence=1, nodes=nodes)])
            message = fleet_pb2.FromWorker(drafts=drafts).SerializeToString()
            error = await refusal(aiter(channel.stream_stream(JOIN)(each([hello("bad"), message]))))
            assert error.code().name == "INVALID_ARGUMENT"
        async with asyncio.timeout(DEADLINE_S):
            while len(fleet.router.fleet.streams) > 2:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)

    play(folder, scene)


def test_a_reader_that_takes_nothing_holds_nobody_up_and_gets_all_in_the_end(folder: Path) -> None:
    asked = pb.GenerateRequest(
        prompt="the cat",
        num_choices=4,
        stop=pb.Stop(max_tokens=150, ignore_eos=True),
        sampling=types_pb2.Sampling(temperature=0.8, seed=5, num_logprobs=20),
    )

    async def scene(fleet: RunningFleet) -> None:
        call = aiter(fleet.stub.Generate(asked))
        assert (await anext(call)).started
        (request,) = [each for each in fleet.router.front.requests() if len(each.choices) == 4]
        async with asyncio.timeout(DEADLINE_S):
            while not request.has_ended:
                assert (await fleet.say("another", max_tokens=2)).tokens
        tokens: dict[int, list[int]] = {}
        async for response in call:
            tokens.setdefault(response.tokens.choice, []).extend(each.token_id for each in response.tokens.tokens)
        assert [len(tokens[choice]) for choice in range(4)] == [150] * 4
        assert tokens[3] == [token.token for token in request.choices[3].answer.tokens]

    play(folder, scene)


def test_sdk_and_command_line_say_what_is_wrong(folder: Path) -> None:
    async def scene(fleet: RunningFleet) -> None:
        async with AsyncClient(fleet.address) as client:
            for prompt, options, kind, words in (
                ("word " * 700_000, {}, InvalidRequest, "shorten the prompt"),
                ("\ud800", {}, InvalidRequest, "surrogate|Unicode"),
                ("a", {"max_tokens": 0}, InvalidRequest, "max_tokens"),
                ("a", {"max_tokens": "many"}, InvalidRequest, "max_tokens"),
                ("a", {"temperature": float("nan")}, InvalidRequest, "temperature"),
                ("a", {"model": "other"}, NotFound, "this fleet serves tiny"),
                ("a", {"drafters": ["nobody"]}, NotFound, "nobody"),
                (7, {}, InvalidRequest, "prompt"),
            ):
                with pytest.raises(kind, match=words):
                    _ = [event async for event in client.generate(prompt, **options)]  # type: ignore[arg-type]
        for arguments, code, words in (
            (["a", "--model", "other"], 1, "this fleet serves tiny"),
            (["a", "--max-tokens", "0"], 2, "max_tokens"),
        ):
            command = [sys.executable, "-m", "specfleet.cli", "generate", *arguments, "--address", fleet.address]
            ran = await asyncio.to_thread(
                subprocess.run, command, cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
            assert (ran.returncode, words in ran.stderr) == (code, True), ran.stderr
            assert len(ran.stderr.strip().splitlines()) == 1

    play(folder, scene)
