"""Router, verifier, drafter and client on machines of their own, and what they do when a cable is pulled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from asyncio.subprocess import Process
from pathlib import Path

from benchmarks.generation import Prompt, generate
from contracts.types import SamplingParams, StopParams
from engine.local_group import local_engine
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import engine_of
from tests.service.machines import Machine, network

PROMPT, SEED, MAX_TOKENS = "the cat sat on a mat", 7, 600
DEADLINE_S = 60.0
NOTICED_S = 8.0  # after which a peer that is gone without a word is given up


class Answer:
    """What a client's program hears."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.events: list[dict[str, object]] = []

    async def until(self, num_tokens: int | None = None) -> None:
        """So many tokens, or all."""
        async with asyncio.timeout(DEADLINE_S):
            while num_tokens is None or len(self.events) < num_tokens:
                line = await self._lines.readline()
                if not line:
                    assert num_tokens is None, f"the answer ended after {len(self.events)} tokens"
                    return
                self.events.append(json.loads(line))

    @property
    def tokens(self) -> list[object]:
        return [event["token"] for event in self.events]


async def until_said(log: Path, words: str, times: int = 1) -> None:
    """A log is all that is heard of a machine from outside."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while said(log).count(words) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{words!r} is not there {times} times:\n{said(log)}") from None


def said(log: Path) -> str:
    return log.read_text()


def test_machines_lose_and_find_each_other_in_the_middle_of_a_request(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "tiny", "llama", hidden_size=256, intermediate_size=512, max_position_embeddings=1024
    )
    engine = {"model": str(folder), "dtype": "float32", "num_threads": 1, "kv_cache_bytes": 32 * 2**20}
    with local_engine(engine_of(folder)) as loaded:
        sampling = SamplingParams(temperature=0.8, seed=SEED)
        stop = StopParams(max_tokens=MAX_TOKENS, ignore_eos=True)
        (plain,), _ = generate(loaded, [Prompt(id="plain", prompt=PROMPT)], sampling, stop)

    async def scene(router: Machine, verifier: Machine, drafter: Machine, client: Machine) -> None:
        config = tmp_path / "fleet.yaml"
        settings = {
            "engine": engine,
            "drafters": {"twin": {"kind": "model", "engine": engine}},
            "router": {"host": router.address, "grpc_port": 50051, "http_port": 8000, "drafting": "always"},
            "store": {"url": "memory"},
            "security": {"insecure": True},
        }
        config.write_text(json.dumps(settings))
        fleet = ("--config", str(config))
        log = tmp_path / "router.log"
        async with contextlib.AsyncExitStack() as stack:

            async def start(machine: Machine, name: str, *command: str) -> Process:
                return await stack.enter_async_context(machine.running(tmp_path / f"{name}.log", *command))

            await start(router, "router", "router", *fleet)
            await start(verifier, "verifier", "workers.verifier", *fleet)
            await start(drafter, "drafter", "workers.drafter", *fleet, "--name", "twin")
            await until_said(log, "verifier joined")
            await until_said(log, "twin joined")
            request = {"prompt": PROMPT, "max_tokens": MAX_TOKENS, "temperature": 0.8, "seed": SEED, "mode": "vanilla"}
            asked = (
                "tests.service.machine_client",
                f"{router.address}:50051",
                json.dumps(request | {"ignore_eos": True}),
            )
            answer = Answer(await start(client, "client", *asked))
            await answer.until(30)
            drafter.pull_cable()
            num_before, pulled_s = len(answer.events), time.monotonic()
            await answer.until(num_before + 150)
            assert time.monotonic() - pulled_s < NOTICED_S, "nobody waits until the drafter is known to be lost"
            verifier.pull_cable()
            await until_said(log, "verifier left")
            await until_said(log, "twin left")
            assert len(answer.tokens) < MAX_TOKENS
            verifier.plug_cable()
            drafter.plug_cable()
            await until_said(log, "verifier joined", times=2)
            await until_said(log, "twin joined", times=2)
            await answer.until()
            assert answer.tokens == plain.token_ids
            guessed = [event["drafter"] for event in answer.events]
            assert "twin" in guessed[:num_before], "it did help"
            few = ("tests.service.machine_client", f"{router.address}:50051", json.dumps(request | {"max_tokens": 60}))
            again = Answer(await start(client, "client-again", *few))
            await again.until()
            assert again.tokens == plain.token_ids[:60]
            assert "twin" in {event["drafter"] for event in again.events}, "and does again"

    with network() as net:
        machines = [net.machine() for _ in range(4)]
        asyncio.run(scene(*machines))
