"""Nothing is lost: routers and stores die in the middle of requests, and clients notice a pause at most."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc
import grpc.aio
import pytest

from contracts.config import DrafterConfig, StoreConfig
from contracts.types import RequestId
from router.journal.encoding import decoded
from router.journal.records import Recorded, recorded
from router.journal.redis_journal import RedisJournal
from router.request_key import RequestKey
from router.security.caller import NOBODY
from specfleet.async_client import AsyncClient
from specfleet.errors import DeadlineExceeded, Unavailable
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc, types_pb2
from tests.engine.checkpoints import write_checkpoint
from tests.router.valkey import Valkey, valkey
from tests.service.fleet import engine_of, running_fleet
from tests.service.router_process import router_process, until, verifier_process, workers

NUM_TOKENS = 250
SCHEMA = '{"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 60}}}'
REQUESTS: Sequence[dict[str, Any]] = (
    {"prompt": "the cat", "seed": 1, "temperature": 0.0},
    {"prompt": "the cat", "seed": 2, "temperature": 0.9, "num_logprobs": 2},
    {"prompt": "a dog and", "seed": 3, "temperature": 0.7, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    {"prompt": "one two", "seed": 4, "temperature": 1.0, "num_choices": 2},
    {"prompt": "tell me", "seed": 5, "temperature": 0.8, "mode": "off", "top_k": 20},
    {"prompt": "json", "seed": 6, "temperature": 0.8, "json_schema": SCHEMA, "ignore_eos": False},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("journal") / "tiny", "llama", max_position_embeddings=2048)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Valkey]:
    with valkey(tmp_path / "store", {"appendonly": "yes", "appendfsync": "everysec"}) as server:
        yield server


@dataclass
class Heard:
    """What a client got: of each choice its tokens in order, its text, and why it ended."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str | None] = field(default_factory=dict)
    logprobs: list[float] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.tokens.values()))


async def listen(client: AsyncClient, heard: Heard, name: str, request: dict[str, Any]) -> Heard:
    """By the published client, which is told nothing of what goes on."""
    options = {"max_tokens": NUM_TOKENS, "ignore_eos": True, **request}
    prompt = options.pop("prompt")
    async for event in client.generate(prompt, request_id=name, **options):
        said = heard.tokens.setdefault(event.choice, [])
        if event.token_id is not None:
            assert event.index == len(said)
            said.append(event.token_id)
        if event.logprob is not None:
            heard.logprobs.append(event.logprob)
        heard.texts[event.choice] = heard.texts.get(event.choice, "") + event.text
        heard.reasons[event.choice] = event.finish_reason
    return heard


async def all_heard(client: AsyncClient, prefix: str) -> list[Heard]:
    return list(
        await asyncio.gather(
            *(listen(client, Heard(), f"{prefix}{index}", request) for index, request in enumerate(REQUESTS))
        )
    )


async def found_in(config: StoreConfig, name: str) -> Recorded:
    journal = RedisJournal(config)
    try:
        key = RequestKey(NOBODY, RequestId(name))
        return recorded(key, map(decoded, await journal.read(key)))
    finally:
        await journal.close()


def test_a_router_is_killed_and_nobody_notices(folder: Path, store: Valkey, tmp_path: Path) -> None:
    engine = engine_of(folder)
    drafters = {"twin": DrafterConfig(kind="model", engine=engine)}

    async def run() -> None:
        settings: dict[str, object] = {"url": store.url}
        async with (
            router_process(tmp_path, engine, settings) as router,
            workers(router.address, engine, drafters),
            AsyncClient(router.address) as client,
        ):
            await router.until_ready("twin")
            undisturbed = await all_heard(client, "whole")
            heard = [Heard() for _ in REQUESTS]
            clients = [
                asyncio.create_task(listen(client, heard[index], f"cut{index}", request))
                for index, request in enumerate(REQUESTS)
            ]
            await until(lambda: all(each.num_tokens >= 5 for each in heard))
            assert not any(task.done() for task in clients)
            await router.kill()
            await router.start()
            await router.until_it_says("requests go on where another router left them")
            assert not any(task.done() for task in clients)
            await router.kill()  # and so soon that its clients have hardly come back
            await router.start()
            assert await asyncio.gather(*clients) == undisturbed
            await router.until_ready()
            # What ended under a router that is gone can be read again, too.
            assert await all_heard(client, "whole") == undisturbed
            router.signal(signal.SIGTERM)
            assert await router.ended() == 0
        config = StoreConfig(url=store.url)
        for index, each in enumerate(undisturbed):
            found = await found_in(config, f"cut{index}")
            assert {number: said.tokens for number, said in enumerate(found.choices)} == each.tokens
            assert all(said.ended is not None for said in found.choices)
        with store.client() as client_of_store:
            assert client_of_store.scard("{specfleet:default}:unfinished") == 0

    asyncio.run(run())


@pytest.mark.parametrize("comes_back", ["with all it had", "empty"])
def test_the_store_is_killed_and_what_runs_goes_on(folder: Path, store: Valkey, comes_back: str) -> None:
    async def run() -> None:
        config = StoreConfig(url=store.url, lease_s=1.0)
        async with (
            running_fleet(engine_of(folder), {}, store=config) as fleet,
            AsyncClient(fleet.address) as client,
        ):
            undisturbed = await listen(client, Heard(), "whole", REQUESTS[1])
            heard = Heard()
            running = asyncio.create_task(listen(client, heard, "cut", REQUESTS[1]))
            await until(lambda: heard.num_tokens >= 5)
            store.kill()
            assert not running.done()
            assert await running == undisturbed
            began_s = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                await listen(client, Heard(), "refused", REQUESTS[0])
            assert time.monotonic() - began_s < 5.0, "a refusal does not wait for the store"
            assert refused.value.retry_after_s == 1.0
            if comes_back == "empty":
                for file in store.folder.glob("appendonlydir/*"):
                    file.unlink()
            store.start()
            await until(lambda: not fleet.router.front.recorder.is_store_lost)
            assert await listen(client, Heard(), "again", REQUESTS[1]) == undisturbed
        for name in ("cut", "again"):
            found = await found_in(config, name)
            assert found.choices[0].tokens == undisturbed.tokens[0]
            assert found.choices[0].ended is not None

    asyncio.run(run())


@pytest.mark.parametrize("on_loss", ["wait", "continue"])
def test_new_requests_without_a_store_do_as_they_are_told(
    folder: Path, store: Valkey, on_loss: Literal["wait", "continue"]
) -> None:
    async def run() -> None:
        config = StoreConfig(url=store.url, lease_s=1.0, on_loss=on_loss)
        async with running_fleet(engine_of(folder), {}, store=config) as fleet, AsyncClient(fleet.address) as client:
            undisturbed = await listen(client, Heard(), "whole", REQUESTS[0])
            store.kill()
            new = asyncio.create_task(listen(client, Heard(), "new", REQUESTS[0]))
            if on_loss == "wait":
                await until(lambda: fleet.router.front.recorder.is_store_lost)
                with pytest.raises(DeadlineExceeded):
                    await listen(client, Heard(), "hurried", {**REQUESTS[0], "deadline_s": 0.2})
                assert not new.done()
            else:
                assert await new == undisturbed
            store.start()
            assert await new == undisturbed
            await until(lambda: not fleet.router.front.recorder.is_store_lost)
        assert (await found_in(config, "new")).choices[0].tokens == undisturbed.tokens[0]

    asyncio.run(run())


def test_a_router_that_was_asleep_does_not_speak_when_another_has_taken_over(
    folder: Path, store: Valkey, tmp_path: Path
) -> None:
    """The first router is stopped while a verdict is on its way to it, so that it wakes with tokens in its hands."""
    engine = engine_of(folder)
    settings: dict[str, object] = {"url": store.url, "lease_s": 2.0, "when_cut_off": "stop"}

    async def run() -> None:
        async with (
            router_process(tmp_path, engine, settings) as first,
            verifier_process(first) as verifier,
        ):
            await first.until_ready()
            async with (
                router_process(tmp_path, engine, settings) as second,
                workers(second.address, engine, {}),
                grpc.aio.insecure_channel(first.address) as to_first,
                grpc.aio.insecure_channel(second.address) as to_second,
            ):
                await second.until_it_says("this one stands by")
                old, new = (inference_pb2_grpc.InferenceStub(channel) for channel in (to_first, to_second))
                with pytest.raises(grpc.aio.AioRpcError, match="stands by"):
                    await tokens_of(new.Generate(asked("elsewhere")))
                undisturbed = await tokens_of(old.Generate(asked("whole")))
                heard: list[int] = []
                listening = asyncio.create_task(hear(old.Generate(asked("cut")), heard))
                await until(lambda: len(heard) >= 5)
                verifier.send_signal(signal.SIGSTOP)
                await until_it_stands_still(heard)
                first.signal(signal.SIGSTOP)
                verifier.send_signal(signal.SIGCONT)
                await second.until_ready()
                said_by_first = list(heard)
                rest = await tokens_of(new.Resume(pb.ResumeRequest(request_id="cut", next_index=[len(said_by_first)])))
                assert said_by_first + rest == undisturbed
                with store.client() as client:
                    client.client_pause(1000)  # so that it has time to speak before it can hear that it must not
                first.signal(signal.SIGCONT)
                with pytest.raises(grpc.aio.AioRpcError, match="another router has taken over") as silenced:
                    await listening
                assert silenced.value.code() == grpc.StatusCode.UNAVAILABLE
                assert heard == said_by_first
                assert await first.ended() == 3

    asyncio.run(run())


def test_a_store_that_is_not_there_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        settings: dict[str, object] = {"url": "redis://:secret@127.0.0.1:1"}
        async with router_process(tmp_path, engine_of(folder), settings) as router:
            assert await router.ended() == 2
            said = router.log.read_text()
            assert "store.url is 'redis://127.0.0.1:1', where no store answers" in said
            assert "secret" not in said

    asyncio.run(run())


def asked(name: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=name,
        prompt="the cat",
        sampling=types_pb2.Sampling(seed=1, temperature=0.8),
        stop=pb.Stop(max_tokens=NUM_TOKENS, ignore_eos=True),
    )


async def tokens_of(call: Any) -> list[int]:
    heard: list[int] = []
    await hear(call, heard)
    return heard


async def hear(call: Any, heard: list[int]) -> None:
    async for response in call:
        heard += [token.token_id for token in response.tokens.tokens]


async def until_it_stands_still(heard: list[int]) -> None:
    """What was on its way when the verifier stopped has arrived."""
    while True:
        num_heard = len(heard)
        await asyncio.sleep(0.3)
        if len(heard) == num_heard:
            return


def test_a_request_goes_on_with_the_model_that_it_began_with_or_not_at_all(
    folder: Path, store: Valkey, tmp_path: Path
) -> None:
    """Its router ends in the middle of it, well this time, and the next one has another target, or the same."""
    other = write_checkpoint(tmp_path / "other", "llama", max_position_embeddings=2048, seed=1)

    async def begin(name: str) -> list[int]:
        async with running_fleet(engine_of(folder), {}, store=StoreConfig(url=store.url)) as fleet:
            heard: list[int] = []
            listening = asyncio.create_task(hear(fleet.stub.Generate(asked(name)), heard))
            await until(lambda: len(heard) >= 5)
        await asyncio.gather(listening, return_exceptions=True)  # its channel was closed with the fleet
        return heard

    async def resume(target: Path, name: str, next_index: int) -> list[pb.GenerateResponse]:
        async with running_fleet(engine_of(target), {}, store=StoreConfig(url=store.url)) as fleet:
            call = fleet.stub.Resume(pb.ResumeRequest(request_id=name, next_index=[next_index]))
            return [response async for response in call]

    async def run() -> None:
        heard = await begin("one")
        (end,) = await resume(other, "one", len(heard))
        assert end.finished.reason == pb.FINISH_REASON_ERROR
        assert "a text must not change its model" in end.finished.error
        heard = await begin("two")
        said = await resume(folder, "two", len(heard))
        heard += [token.token_id for response in said for token in response.tokens.tokens]
        assert said[-1].finished.usage.num_completion_tokens == len(heard) == NUM_TOKENS

    asyncio.run(run())
