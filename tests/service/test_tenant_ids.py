"""A request's id is its tenant's own: used by two at once it names two requests, and nobody finds another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest

from specfleet.async_client import AsyncClient
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc
from tests.engine.checkpoints import write_checkpoint
from tests.router.valkey import valkey
from tests.service.fleet import engine_of
from tests.service.keys import keys_of
from tests.service.router_process import RouterProcess, router_process, until, workers

NUM_TOKENS = 250


async def listen(client: AsyncClient, prompt: str, name: str, heard: list[int]) -> list[int]:
    async for event in client.generate(
        prompt, request_id=name, max_tokens=NUM_TOKENS, ignore_eos=True, seed=3, temperature=0.9
    ):
        if event.token_id is not None:
            heard.append(event.token_id)
    return heard


@dataclass(frozen=True)
class Bare:
    """A client that resumes when it is told to, and not by itself."""

    stub: inference_pb2_grpc.InferenceStub
    key: str

    async def resume(self, name: str, next_index: int) -> list[int]:
        request = pb.ResumeRequest(request_id=name, next_index=[next_index])
        call = self.stub.Resume(request, metadata=self._metadata, wait_for_ready=True)
        return [token.token_id async for response in call for token in response.tokens.tokens]

    async def cancel(self, name: str) -> bool:
        call = self.stub.Cancel(pb.CancelRequest(request_id=name), metadata=self._metadata, wait_for_ready=True)
        return bool((await call).was_running)

    async def check_that_it_finds_nothing(self, name: str) -> None:
        """Of a request of another tenant it hears what it hears of one that never was."""
        for wanted in (name, "never"):
            for ask in (self.resume(wanted, 0), self.cancel(wanted)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await ask
                assert refused.value.code() == grpc.StatusCode.NOT_FOUND
                said = f"there is no request {wanted!r}, or it ended too long ago to be kept"
                assert refused.value.details() == said

    @property
    def _metadata(self) -> Sequence[tuple[str, str]]:
        return [("authorization", f"Bearer {self.key}")]


def test_ids_are_each_tenants_own_also_when_the_router_is_killed(tmp_path: Path) -> None:
    engine = engine_of(write_checkpoint(tmp_path / "tiny", "llama", max_position_embeddings=2048))
    keys = keys_of(tmp_path / "keys.json", "acme", "spy", "operator")

    async def scene(router: RouterProcess) -> None:
        async with (
            workers(router.address, engine, {}),
            AsyncClient(router.address, api_key=keys["acme"]) as acme,
            AsyncClient(router.address, api_key=keys["spy"]) as spy,
            grpc.aio.insecure_channel(router.address) as channel,
        ):
            stub = inference_pb2_grpc.InferenceStub(channel)
            of_acme, of_spy = Bare(stub, keys["acme"]), Bare(stub, keys["spy"])
            await router.until_ready()
            whole = [await listen(acme, "the cat", "a", []), await listen(spy, "one two", "b", [])]
            assert whole[0] != whole[1]
            heard: list[list[int]] = [[], []]
            both = [
                asyncio.create_task(listen(acme, "the cat", "same", heard[0])),
                asyncio.create_task(listen(spy, "one two", "same", heard[1])),
            ]
            await until(lambda: all(len(each) >= 5 for each in heard))
            await of_spy.check_that_it_finds_nothing("a")
            assert not all(task.done() for task in both)
            await router.kill()
            await router.start()
            assert await asyncio.gather(*both) == whole
            await of_spy.check_that_it_finds_nothing("a")
            await of_acme.check_that_it_finds_nothing("b")
            assert await of_acme.resume("same", 200) == whole[0][200:]
            assert await of_spy.resume("same", 200) == whole[1][200:]
            assert await of_spy.cancel("same") is False

    async def run() -> None:
        with valkey(tmp_path / "store") as store:
            async with router_process(tmp_path, engine, {"url": store.url}, tmp_path / "keys.json") as router:
                router.admin_key = keys["operator"]
                await scene(router)

    asyncio.run(run())
