"""Tenants of one fleet, over mutual TLS and with keys: none sees anything of another, and none can crowd one out."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest

from contracts.types import TenantId
from router.front import FrontLimits
from specfleet import AsyncClient, Completion
from specfleet.errors import InvalidRequest, NotFound, Overloaded, PermissionDenied, Unauthenticated
from specfleet.keys import KeyFile, Limits, read_keys, write_keys
from tests.engine.checkpoints import write_checkpoint
from tests.security.secure_fleet import DRAFTER, SecureFleet, secure_fleet

SECRET = "the launch code is seven two nine four, and nobody else may ever read it or guess that it was said"
ASKED: Mapping[str, Any] = {"max_tokens": 24, "temperature": 2.0, "seed": 5, "mode": "vanilla", "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tenants") / "tiny", "llama")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes its time to read a prompt."""
    folder = tmp_path_factory.mktemp("tenants") / "slow"
    return write_checkpoint(folder, "llama", hidden_size=256, intermediate_size=1024)


@pytest.fixture
def play(model: Path, ours: Path, tmp_path: Path) -> Callable[..., None]:
    """Runs a scene with a fleet of tenants and their limits."""

    def run(
        scene: Callable[[SecureFleet], Awaitable[None]],
        tenants: Mapping[str, Limits],
        target: Path = model,
        **settings: Any,
    ) -> None:
        async def scenes() -> None:
            async with secure_fleet(target, ours, tmp_path / "keys.json", tenants, **settings) as fleet:
                await scene(fleet)

        asyncio.run(scenes())

    return run


NUM_GUESSES = 12
TWO = {"acme": Limits(), "spy": Limits()}


async def ask(client: AsyncClient, prompt: str | Sequence[int] = SECRET, **options: Any) -> Completion:
    return await client.complete(prompt, **{**ASKED, **options})


def test_no_tenant_sees_anothers_text_by_caches_drafts_or_ids(play: Callable[..., None]) -> None:
    async def scene(fleet: SecureFleet) -> None:
        async with fleet.client("acme") as acme, fleet.client("spy") as spy:
            first = await ask(acme, request_id="mine")
            again = await ask(acme)
            # What the acme's second request gains, by the prefix cache and by what the drafter remembers, is what a
            # spy would have to see.
            assert again.usage.num_cached_tokens > first.usage.num_cached_tokens == 0
            assert again.statistics.num_accepted_tokens > 0
            assert DRAFTER in again.drafters

            spied = await ask(spy)
            assert spied.text == first.text, "the same model and seed"
            assert spied.usage.num_cached_tokens == 0
            assert spied.statistics.num_draft_tokens == first.statistics.num_draft_tokens == 0
            assert set(spied.drafters) == {None}
            assert spied.statistics.num_rounds == first.statistics.num_rounds

            async with fleet.client("guesser") as guesser:
                beginning = await ask(guesser, f"{SECRET[:60]} and on", max_tokens=1)
                assert beginning.usage.num_cached_tokens == 0, "a beginning that is guessed right is no quicker"

            with pytest.raises(NotFound, match="there is no request 'mine'"):
                await spy.cancel("mine")
            of_spy = await ask(spy, "the cat", request_id="mine", max_tokens=3)
            assert of_spy.usage.num_completion_tokens == 3, "ids are each tenant's own"
            assert await acme.cancel("mine") is False
            expertise = fleet.router.scheduler.roster.expertise
            assert expertise(TenantId("acme")) is not expertise(TenantId("spy"))

    play(scene, {**TWO, "guesser": Limits()})


def test_no_tenant_learns_anothers_text_by_timing_what_a_cache_would_save(
    slow: Path, play: Callable[..., None]
) -> None:
    """A spy guesses what another tenant has just asked, and times its guesses against texts that nobody has asked. The
    same with a tenant's own texts shows that there is something to be timed."""
    chance = random.Random(0)
    took_s: dict[tuple[str, bool], list[float]] = {
        (tenant, is_right): [] for tenant in TWO for is_right in (True, False)
    }

    async def scene(fleet: SecureFleet) -> None:
        async with fleet.client("acme") as acme, fleet.client("spy") as spy:
            for index in range(NUM_GUESSES):
                text = a_text(chance)
                await ask(acme, text, max_tokens=1, mode="off")
                for tenant, client in (("spy", spy), ("acme", acme)):
                    for is_right in (True, False) if index % 2 else (False, True):
                        guess = text if is_right else a_text(chance)
                        began_s = time.perf_counter()
                        await ask(client, guess, max_tokens=1, mode="off")
                        took_s[tenant, is_right].append(time.perf_counter() - began_s)

    play(scene, TWO, slow)
    gain_s = {tenant: median(took_s[tenant, False]) - median(took_s[tenant, True]) for tenant in TWO}
    assert gain_s["acme"] > 0.3 * median(took_s["acme", False]), f"one's own cache can be timed: {gain_s}"
    assert gain_s["spy"] < 0.3 * gain_s["acme"], f"another's cannot: {gain_s}"


def a_text(chance: random.Random) -> list[int]:
    return [chance.randrange(8, 100) for _ in range(480)]


def test_a_key_is_asked_for_on_both_faces_and_a_revoked_one_is_of_no_use(play: Callable[..., None]) -> None:
    async def scene(fleet: SecureFleet) -> None:
        address = f"127.0.0.1:{fleet.router.port}"
        async with AsyncClient(address, tls=fleet.certificates / "client", resume_for_s=1.0) as nobody:
            with pytest.raises(Unauthenticated, match="an API key is missing"):
                await ask(nobody)
        async with http(fleet) as web:
            body = {"prompt": "the cat", "max_tokens": 3}
            known = {"authorization": f"Bearer {fleet.keys['acme']}"}
            for headers, status in (({}, 401), ({"authorization": "Bearer no"}, 401), (known, 200)):
                for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/no/such/path")):
                    answer = await web.request(method, path, json=body if method == "POST" else None, headers=headers)
                    assert answer.status_code == (404 if status == 200 and path.startswith("/no") else status), path
            assert (await web.get("/healthz")).status_code == 200
            assert (await web.get("/readyz")).status_code == 200
            assert (await web.get("/metrics")).status_code == 401
            assert (await web.get("/metrics", headers=known)).status_code == 403
            assert (await web.get("/v1/models")).json()["error"]["type"] == "authentication_error"

        async with fleet.client("acme") as acme:
            assert (await ask(acme)).text
            found = read_keys(fleet.keys_file)
            write_keys(fleet.keys_file, KeyFile(keys=found.keys[1:], tenants=found.tenants))
            with pytest.raises(Unauthenticated, match="unknown, or holds no longer"):
                await ask(acme)

    play(scene, TWO)


def test_quotas_are_refusals_that_say_when_to_come_again(play: Callable[..., None]) -> None:
    async def scene(fleet: SecureFleet) -> None:
        async with fleet.client("acme") as acme, fleet.client("spy") as spy, http(fleet) as web:
            await ask(acme)
            with pytest.raises(Overloaded, match="tenant acme has used up 1 requests a minute") as refused:
                await ask(acme)
            assert refused.value.retry_after_s is not None
            assert 30.0 < refused.value.retry_after_s <= 60.0
            answer = await web.post(
                "/v1/completions",
                json={"prompt": "the cat"},
                headers={"authorization": f"Bearer {fleet.keys['acme']}"},
            )
            assert answer.status_code == 429
            assert 30 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["type"] == "rate_limit_error"
            for _ in range(2):
                await ask(spy)
            with pytest.raises(PermissionDenied, match="priority is 1; tenant spy may ask for 0 at most"):
                await ask(spy, priority=1)

    play(scene, {"acme": Limits(requests_per_minute=1), "spy": Limits()})


def test_a_flood_of_one_tenant_neither_delays_nor_shuts_out_another(play: Callable[..., None]) -> None:
    """One sequence runs at a time, and the queue has room for twelve."""

    async def scene(fleet: SecureFleet) -> None:
        refused: list[str] = []

        async def one(client: AsyncClient, name: str) -> None:
            try:
                await ask(client, "the cat", max_tokens=16, mode="off")
            except Overloaded:
                refused.append(name)

        async with fleet.client("acme") as acme, fleet.client("spy") as spy:
            flood = [asyncio.create_task(one(acme, "acme")) for _ in range(40)]
            while len(fleet.router.scheduler.waiting) < 6:  # noqa: ASYNC110  # the queue tells nobody
                await asyncio.sleep(0)
            await one(spy, "spy")
            await asyncio.gather(*flood)
        assert set(refused) == {"acme"}
        requests = fleet.router.front.requests()
        (mine,) = [request for request in requests if request.tenant == "spy"]
        ended_s = mine.choices[0].ended_s
        before = [of for of in requests if of is not mine and mine.began_s < of.choices[0].ended_s < ended_s]
        assert len(before) <= 2, "the one that ran, and one that took its place while this one was written down"

    play(scene, TWO, limits=FrontLimits(max_waiting=12), max_running=1)


def test_what_is_too_large_is_refused_before_anything_is_computed(play: Callable[..., None]) -> None:
    async def scene(fleet: SecureFleet) -> None:
        async with fleet.client("acme") as acme:
            for options, words in (
                ({"prompt": "x" * (4 * 2**20 + 1)}, "the prompt has 4194305 characters; it may have at most 4194304"),
                ({"prompt": [5] * 100_000}, "the prompt has 100000 tokens; it may have at most 512"),
                ({"prompt": [{"role": "r" * 65, "content": ""}]}, "a message's role has 65 characters"),
                ({"prompt": [{"role": "user", "content": ""}] * 10_001}, "the chat has 10001 messages"),
                ({"request_id": "i" * 129}, "request_id is 'iii"),
                ({"request_id": "two words"}, "request_id is 'two words'; it must be"),
                ({"json_schema": " " * (2**18 + 1)}, "json_schema has 262145 characters"),
                ({"drafters": ["d"] * 65}, "drafters has 65 names"),
                ({"priority": 1001}, "priority is 1001"),
                ({"model": "m" * 513}, "model has 513 characters"),
            ):
                with pytest.raises(InvalidRequest) as refused:
                    await acme.complete(**{"prompt": "x", **options})  # type: ignore[arg-type]
                assert words in str(refused.value)

    play(scene, TWO)


def http(fleet: SecureFleet) -> httpx.AsyncClient:
    trusted = ssl.create_default_context(cafile=str(fleet.certificates / "client" / "ca.crt"))
    return httpx.AsyncClient(base_url=fleet.http, verify=trusted, timeout=60.0)
