"""What drafters learned of a tenant outlives them and their router, is that tenant's alone, and believed in nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from contracts.config import DrafterConfig
from contracts.errors import InvalidArgument
from contracts.types import DrafterId, SequenceId, TenantId
from specfleet import AsyncClient, Completion
from tests.engine.checkpoints import write_checkpoint
from tests.router.valkey import valkey
from tests.service.fleet import engine_of
from tests.service.keys import keys_of
from tests.service.router_process import RouterProcess, drafter_process, router_process, until, workers
from workers.drafter_node.memories import unpacked
from workers.drafters.drafter import Ask, Opening
from workers.drafters.memory import MemoryDrafter
from workers.drafters.registry import Setup, make_drafter

KIND = "lookahead"  # without a memory it is right about no text that does not repeat itself
TENANT = TenantId("t")
MEMORIES = "{specfleet:default}:memories"
TEXT = "the launch code is seven two nine four, and nobody else may ever read it"


@dataclass
class Scene:
    """A fleet whose router and drafter can be killed."""

    router: RouterProcess
    store: redis.Redis
    keys: Mapping[str, str]
    log: Path
    drafting: contextlib.AsyncExitStack

    async def start_drafter(self) -> None:
        await self.drafting.enter_async_context(drafter_process(self.router, KIND, self.log))
        await self.router.until_ready(KIND)

    async def kill_drafter(self) -> None:
        await self.drafting.aclose()

    async def ask(self, tenant: str, prompt: str = TEXT, num_tokens: int = 24) -> Completion:
        async with AsyncClient(self.router.address, api_key=self.keys[tenant]) as client:
            return await client.complete(
                prompt,
                max_tokens=num_tokens,
                temperature=2.0,
                seed=5,
                mode="vanilla",
                ignore_eos=True,
            )

    async def until_the_drafter_says(self, words: str) -> None:
        await until(lambda: words in self.log.read_text(), words)

    async def until_kept(self, tenant: str, answer: Completion) -> None:
        """Until what the store has knows how this answer goes on after its first tokens."""
        name = await self.name_of(tenant)
        await until(lambda: self._knows(name, answer), f"the store has what was learned from {tenant}")

    def _knows(self, name: str, answer: Completion) -> bool:
        drafter = make_drafter(KIND, Setup(drafter=DrafterId(KIND), vocab_size=2**20))
        assert isinstance(drafter, MemoryDrafter)
        try:
            drafter.restore(TENANT, unpacked(bytes(self.store.hget(MEMORIES, name) or b"")))  # type: ignore[arg-type]
        except InvalidArgument:
            return False
        drafter.open([Opening(sequence=SequenceId("s"), tenant=TENANT, tokens=answer.token_ids[:5])])
        (tree,) = drafter.propose([Ask(sequence=SequenceId("s"), num_nodes=1)])
        return [node.token for node in tree] == [answer.token_ids[5]]

    async def name_of(self, tenant: str) -> str:
        found: list[str] = []

        def is_there() -> bool:
            names: Sequence[bytes] = self.store.hkeys(MEMORIES)  # type: ignore[assignment]
            found[:] = [name.decode() for name in names if name.decode().endswith(f"/{KIND}/{KIND}/{tenant}")]
            return bool(found)

        await until(is_there)
        (name,) = found
        return name


def test_what_a_drafter_learned_is_there_after_it_and_its_router_were_killed(tmp_path: Path) -> None:
    async def scene(of: Scene) -> None:
        await of.start_drafter()
        for tenant in ("acme", "unlucky"):
            first = await of.ask(tenant)
            assert first.statistics.num_accepted_tokens == 0
            again = await of.ask(tenant)
            assert again.statistics.num_accepted_tokens > 0
            await of.until_kept(tenant, again)

        await of.kill_drafter()
        await of.router.until_it_says(f"{KIND} left")
        of.store.hset(MEMORIES, await of.name_of("unlucky"), b"\0nonsense")
        await of.router.kill()
        await of.router.start()
        await of.start_drafter()
        # Any sequence of the tenant brings the drafter what it knew; the text itself it has not seen in this life.
        await of.ask("acme", "a dog and", 1)
        await of.until_the_drafter_says("tenant 'acme' is back")
        after = await of.ask("acme")
        assert after.text == first.text
        assert after.statistics.num_accepted_tokens > 0

        spied = await of.ask("spy")
        assert spied.text == first.text
        assert spied.statistics.num_accepted_tokens == 0

        anew = await of.ask("unlucky")
        assert anew.text == first.text
        assert anew.statistics.num_accepted_tokens == 0
        await of.until_the_drafter_says("tenant 'unlucky' is not taken back")
        again = await of.ask("unlucky")
        assert again.statistics.num_accepted_tokens > 0, "it learns again"
        await of.until_kept("unlucky", again)

    async def run() -> None:
        engine = engine_of(write_checkpoint(tmp_path / "tiny", "llama"))
        keys = keys_of(tmp_path / "keys.json", "acme", "unlucky", "spy", "operator")
        with valkey(tmp_path / "store") as store, store.client() as client:
            settings: dict[str, object] = {"url": store.url, "snapshot_s": 0.2}
            drafters = {KIND: DrafterConfig(kind="lookahead")}
            async with (
                router_process(tmp_path, engine, settings, tmp_path / "keys.json", drafters) as router,
                contextlib.AsyncExitStack() as running,
            ):
                router.admin_key = keys["operator"]
                await router.until_it_says("router serves gRPC")
                await running.enter_async_context(workers(router.address, engine, {}))
                drafting = await running.enter_async_context(contextlib.AsyncExitStack())
                await scene(Scene(router, client, keys, tmp_path / "drafter.log", drafting))

    asyncio.run(run())
