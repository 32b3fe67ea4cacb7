"""The processes themselves: started by their commands, they join, serve together, and end with the right status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contracts.config import load_config
from contracts.errors import InvalidArgument
from contracts.types import ROOT, SamplingParams, SequenceId
from engine.load import load_engine
from engine.work import Verify
from specfleet.health import READY
from specfleet.v1 import fleet_pb2
from tests.engine.checkpoints import write_checkpoint
from tests.router.valkey import free_port
from tests.workers.router_side import Peer, Refusal, RouterSide, item, opening
from workers.process import checked_name

CHECKOUT = Path(__file__).resolve().parents[2]
SAMPLING = SamplingParams(temperature=0.8, seed=11)
PROMPT = [5 + n * 7 % 300 for n in range(20)]
NUM_NEW = 16

CONFIG = """
engine: {{model: {folder}/target, dtype: float32, device: cpu, num_threads: 1, kv_cache_bytes: 1MiB}}
drafters:
  same:
    kind: model
    engine: {{model: {folder}/target, dtype: float32, device: cpu, num_threads: 1, kv_cache_bytes: 1MiB}}
  lookup: {{kind: prompt_lookup}}
  guest:
    kind: model
    with_target: true
    engine: {{model: {folder}/target, dtype: float32, device: cpu, num_threads: 1, kv_cache_bytes: 1MiB}}
  nowhere:
    kind: model
    with_target: true
    engine: {{model: {folder}/nowhere, device: cpu}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    write_checkpoint(folder / "target", "llama")
    file = folder / "fleet.yaml"
    file.write_text(CONFIG.format(folder=folder))
    return file


@contextlib.asynccontextmanager
async def started(module: str, config: Path, router: str, *more: str) -> AsyncIterator[Process]:
    """A process of its own, which must be gone when the block is left."""
    arguments = ["-m", module, "--config", str(config), "--router", router, *more]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=CHECKOUT,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Process, number: int | None = None) -> tuple[int | None, str]:
    """Its exit status and what it said last."""
    if number is not None:
        process.send_signal(number)
    _, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


def plain(config: Path) -> list[int]:
    engine = load_engine(load_config(config).engine).engine
    name = SequenceId("plain")
    engine.open(name, PROMPT, SAMPLING)
    while len(engine.tokens_of(name)) < len(PROMPT) + NUM_NEW:
        engine.step([Verify(sequence=name)])
    return list(engine.tokens_of(name))


async def generate(verifier: Peer, drafters: Mapping[str, Peer]) -> tuple[list[int], int]:
    """Draft with all, then verify, in turn; the tokens, and how many rounds it took."""
    tokens, rounds = list(PROMPT), 0
    begin = opening(2**63, PROMPT, SAMPLING, epoch=4)
    for drafter in drafters.values():
        await drafter.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(open=[begin])))
    opens = [begin]
    while len(tokens) < len(PROMPT) + NUM_NEW:
        want = fleet_pb2.Want(sequence=2**63, epoch=4, position=len(tokens), num_nodes=4, max_children=1)
        nodes: list[tuple[int, int]] = []
        for drafter in drafters.values():
            await drafter.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(want=[want])))
            path = await chain(drafter, len(tokens))
            nodes += [(token, ROOT if depth == 0 else len(nodes) + depth - 1) for depth, token in enumerate(path)]
        message = item(2**63, len(tokens), nodes, epoch=4)
        done = await verifier.round([message], number=rounds, open=opens)
        opens, rounds = [], rounds + 1
        commit = fleet_pb2.Commit(sequence=2**63, epoch=4, position=len(tokens), tokens=done.verdicts[0].tokens)
        for drafter in drafters.values():
            await drafter.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(commit=[commit])))
        tokens += done.verdicts[0].tokens
    return tokens[: len(PROMPT) + NUM_NEW], rounds


async def chain(drafter: Peer, position: int) -> list[int]:
    """One whole answer, each node the child of the one before."""
    tokens: list[int] = []
    while True:
        for draft in (await drafter.hear()).drafts.drafts:
            assert (draft.sequence, draft.epoch, draft.position) == (2**63, 4, position)
            if draft.nodes:
                assert list(draft.below) == tokens
                tokens += [node.token for node in draft.nodes]
            if draft.is_last:
                return tokens


def test_verifier_and_drafters_serve_together_and_leave_when_told(config: Path) -> None:
    """One of the drafters lives in the verifier's process, and another that should is no checkpoint."""

    async def run() -> None:
        async with (
            RouterSide() as router,
            started("workers.verifier", config, router.address) as verifier,
            started("workers.drafter", config, router.address, "--name", "lookup") as lookup,
        ):
            peers = [await router.joined() for _ in range(3)]
            async with started("workers.drafter", config, router.address, "--name", "same") as same:
                peers.append(await router.joined())
                target = next(peer for peer in peers if peer.hello.HasField("verifier_hello"))
                drafters = {p.hello.drafter_hello.name: p for p in peers if p is not target}
                assert target.hello.verifier_hello.name == "verifier"
                assert set(drafters) == {"lookup", "same", "guest"}
                assert len(target.hello.verifier_hello.probes) > 0
                hello = drafters["same"].hello.drafter_hello
                assert hello.model == target.hello.verifier_hello.model
                assert hello.has_logits
                for names in (("same", "lookup"), ("guest",)):
                    tokens, num_rounds = await generate(target, {name: drafters[name] for name in names})
                    assert tokens == plain(config)
                    assert num_rounds <= 1 + NUM_NEW // 5, "drafts of the same model are right"
                    close = fleet_pb2.VerifierWork(close=[2**63])
                    await target.send(fleet_pb2.ToWorker(verifier_work=close))
                assert (await ended(same, signal.SIGTERM))[0] == 0
            assert (await ended(lookup, signal.SIGINT))[0] == 0
            await drafters["guest"].send(fleet_pb2.ToWorker(drain=fleet_pb2.Drain()))
            await asyncio.wait_for(drafters["guest"].is_over.wait(), 60)
            await target.send(fleet_pb2.ToWorker(drain=fleet_pb2.Drain()))
            status, said = await ended(verifier)
            assert status == 0
            assert "nowhere is not served: " in said

    asyncio.run(run())


def test_one_of_many_processes_of_a_drafter_has_a_name_of_its_own_and_tells_of_its_health(config: Path) -> None:
    def status(channel: grpc.Channel, service: str) -> int | None:
        asked: Any = health_pb2_grpc.HealthStub(channel)
        try:
            found: int = asked.Check(health_pb2.HealthCheckRequest(service=service), timeout=1).status
        except grpc.RpcError:
            return None
        return found

    async def until(channel: grpc.Channel, service: str, wanted: int) -> None:
        async with asyncio.timeout(60):
            while await asyncio.to_thread(status, channel, service) != wanted:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.02)

    async def run() -> None:
        address, port = f"127.0.0.1:{free_port()}", free_port()
        names = ("--name", "lookup", "--as", "lookup-3", "--health", address)
        with grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel:
            async with started("workers.drafter", config, f"127.0.0.1:{port}", *names):
                await until(channel, "", health_pb2.HealthCheckResponse.SERVING)
                await until(channel, READY, health_pb2.HealthCheckResponse.NOT_SERVING)
                async with RouterSide(port=port) as router:
                    peer = await router.joined()
                    assert peer.hello.drafter_hello.name == "lookup-3"
                    await until(channel, READY, health_pb2.HealthCheckResponse.SERVING)
                await until(channel, READY, health_pb2.HealthCheckResponse.NOT_SERVING)

    asyncio.run(run())


def test_a_drafter_with_another_tokenizer_is_refused_with_the_reason(config: Path) -> None:
    def judge(hello: fleet_pb2.FromWorker) -> Refusal | None:
        digest = hello.drafter_hello.model.tokenizer_digest
        return grpc.StatusCode.FAILED_PRECONDITION, f"its tokenizer is {digest[:8]}, the target's is another"

    async def run() -> None:
        digest = load_engine(load_config(config).engine).engine.identity.tokenizer_digest
        async with (
            RouterSide(judge=judge) as router,
            started("workers.drafter", config, router.address, "--name", "same") as drafter,
        ):
            status, said = await ended(drafter)
            assert status == 2
            reason = f"its tokenizer is {digest[:8]}, the target's is another"
            assert f"error: the router at {router.address} refused same: {reason}\n" in said

    asyncio.run(run())


def test_a_drafter_that_the_configuration_does_not_have_ends_at_once(config: Path) -> None:
    async def run() -> None:
        async with started("workers.drafter", config, "127.0.0.1:1", "--name", "code") as process:
            status, said = await ended(process)
            assert status == 2
            assert "error: --name is 'code'; drafters of" in said
            assert said.rstrip().endswith(": same, lookup, guest, nowhere")
        async with started("workers.drafter", config, "127.0.0.1:1", "--name", "guest") as process:
            status, said = await ended(process)
            assert status == 2
            assert "error: --name is 'guest', which lives with the target, in `python -m workers.verifier`" in said

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "No 1", "a" * 64, "a/b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert checked_name("code_2-b") == "code_2-b"
    with pytest.raises(InvalidArgument, match="it must be 1 to 63 of the characters"):
        checked_name(name)
