"""One trace from the client to the workers, by processes as they are started, and a collector as there are many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from contracts.config import DrafterConfig
from specfleet.errors import InvalidRequest
from specfleet.tracing import traced
from tests.engine.checkpoints import write_checkpoint
from tests.service.collector import Collector, collector
from tests.service.fleet import engine_of
from tests.service.router_process import CHECKOUT, RouterProcess

PROMPT, NUM_TOKENS = "the target alone decides", 12
CLIENT = f"""
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from specfleet import Client

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with Client(sys.argv[1]) as client, trace.get_tracer("theirs").start_as_current_span("their work"):
    answer = client.complete({PROMPT!r}, max_tokens={NUM_TOKENS}, ignore_eos=True, mode="vanilla", request_id="traced")
provider.shutdown()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tracing") / "tiny", "llama", max_position_embeddings=512)


@contextlib.asynccontextmanager
async def process(log: Path, *command: str, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Of Python's, until the block is left, and it has ended in order."""
    with log.open("ab") as said:
        started = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=CHECKOUT, env={**os.environ, **more}, stdout=said, stderr=said
        )
    try:
        yield started
        if started.returncode is None:
            started.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await started.wait() == 0, f"it has said why in {log}"
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


@contextlib.asynccontextmanager
async def fleet(folder: Path, model: Path, **environment: str) -> AsyncIterator[tuple[RouterProcess, int]]:
    """Router, verifier, and a drafter that is always right; the router and its port for HTTP."""
    engine = engine_of(model)
    drafters = {"twin": DrafterConfig(kind="model", engine=engine)}
    router = RouterProcess(folder, engine, {"url": "memory"}, drafters=drafters)
    router.env = environment
    await router.start()
    try:
        at = ("--config", str(router.file), "--router", router.address)
        async with (
            process(folder / "verifier.log", "-m", "workers.verifier", *at, **environment),
            process(folder / "twin.log", "-m", "workers.drafter", *at, "--name", "twin", **environment),
        ):
            await router.until_ready("twin")
            port = int(router.log.read_text().rpartition("HTTP on 127.0.0.1:")[2].split()[0])
            yield router, port
        router.signal(signal.SIGTERM)
        assert await router.ended() == 0, router.log.read_text()
    finally:
        await router.close()


def test_one_trace_goes_from_the_client_to_the_workers(model: Path, tmp_path: Path) -> None:
    async def run(to: Collector) -> None:
        asking = {"OTEL_EXPORTER_OTLP_ENDPOINT": to.address, "SPECFLEET_LOG": "json"}
        async with fleet(tmp_path, model, **asking) as (router, http):
            async with process(tmp_path / "client.log", "-c", CLIENT, router.address, **asking) as client:
                assert await client.wait() == 0, (tmp_path / "client.log").read_text()
            header = f"00-{'5' * 32}-{'7' * 16}-01"
            body = {"model": "", "prompt": PROMPT, "max_tokens": 4, "speculation": {"mode": "off"}}
            async with httpx.AsyncClient(timeout=60) as web:
                address = f"http://127.0.0.1:{http}/v1/completions"
                assert (await web.post(address, json=body, headers={"traceparent": header})).status_code == 200
                await web.post(address, json=body, headers={"traceparent": f"00-{'6' * 32}-{'7' * 16}-00"})
                assert (await web.post(address, json=body, headers={"traceparent": "what?"})).status_code == 200

    with collector() as to:
        asyncio.run(run(to))
        check_trace_of_the_client(to)
        (sequence,) = to.of("5" * 32, "sequence")
        assert sequence.parent == "7" * 16
        assert {span.parent for span in to.of("5" * 32, "round")} == {sequence.id}
        assert not to.of("5" * 32, "draft"), "mode off"
        assert not [span for span in to.spans if span.trace == "6" * 32], "its client wants no record of it"
    check_logs(tmp_path)
    assert PROMPT not in str(to.spans)


def check_trace_of_the_client(to: Collector) -> None:
    (theirs,) = [span for span in to.spans if span.name == "their work"]
    (call,) = to.of(theirs.trace, "specfleet.v1.Inference/Generate")
    (sequence,) = to.of(theirs.trace, "sequence")
    rounds, drafts = to.of(theirs.trace, "round"), to.of(theirs.trace, "draft")
    assert (call.parent, sequence.parent) == (theirs.id, call.id)
    assert {span.parent for span in rounds + drafts} == {sequence.id}
    services = {span.service for span in (sequence, *rounds, *drafts)}
    assert services == {"specfleet-router", "specfleet-verifier", "specfleet-drafter"}
    assert (sequence.about["specfleet.request"], sequence.about["specfleet.tokens"]) == ("traced", NUM_TOKENS)
    accepted = sum(int(span.about["specfleet.accepted"]) for span in rounds)
    assert len(rounds) + accepted == NUM_TOKENS, "each round has one token of the target's own"
    assert accepted > 0
    assert sum(int(span.about["specfleet.nodes"]) for span in drafts) > 0
    for span in rounds:
        assert sequence.began_s <= span.began_s <= span.ended_s <= sequence.ended_s
    assert len({span.about["specfleet.round"] for span in rounds}) == len(rounds)


def check_logs(folder: Path) -> None:
    """Every process's lines are objects, and tell of requests by their ids."""
    logs = {log.stem.partition("-")[0]: log.read_text() for log in folder.glob("*.log") if log.stem != "client"}
    assert logs.keys() == {"router", "verifier", "twin"}
    for name, said in logs.items():
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert {line["process"] for line in lines} == {"drafter" if name == "twin" else name}
        assert PROMPT not in said
    about = [json.loads(line) for line in logs["router"].splitlines() if '"request": "traced"' in line]
    assert [line["message"].split(":")[0] for line in about] == [
        "request traced is accepted",
        "request traced has ended",
    ]


@pytest.mark.parametrize(
    ("environment", "is_on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
    ],
)
def test_nothing_is_traced_unless_a_collector_is_named(
    environment: dict[str, str], *, is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch, environment)
    with traced("router", "router") as tracing:
        assert (tracing is not None) is is_on


def test_a_protocol_that_is_not_spoken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    settle(monkeypatch, {**endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
    with pytest.raises(InvalidRequest, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'http/protobuf'; it must be grpc"):
        traced("router", "router").__enter__()


def settle(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """These variables of OpenTelemetry's and no others."""
    for key in [key for key in os.environ if key.startswith("OTEL_")]:
        monkeypatch.delenv(key)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
