"""Who is let into the fleet, and whom that throws out."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contracts.clock import VirtualClock
from contracts.errors import AlreadyExists, InvalidArgument, SpecfleetError
from router.fleet_service import FleetService, WorkerStream
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from specfleet.v1 import fleet_pb2, types_pb2
from tests.engine.checkpoints import TOKENIZER_SIZE, write_tokenizer


class Front:
    """As much of the front door as a verifier that joins has to do with."""

    leadership = SimpleNamespace(check=lambda: None)

    def __init__(self) -> None:
        self.offer: Any = None
        self.text: Any = None

    def target_joined(self, offer: object, text: object) -> None:
        self.offer, self.text = offer, text


def hello_of(files: dict[str, bytes], name: str = "target", **fields: Any) -> fleet_pb2.VerifierHello:
    hello = fleet_pb2.VerifierHello(
        name=name,
        model=types_pb2.ModelIdentity(name="m", vocab_size=TOKENIZER_SIZE),
        num_ranks=1,
        max_context=512,
        max_batch_rows=64,
        num_blocks=100,
        block_tokens=16,
        num_real_tokens=TOKENIZER_SIZE,
        tokenizer_files=files,
    )
    hello.MergeFrom(fleet_pb2.VerifierHello(**fields))
    return hello


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    write_tokenizer(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fleet_service(clock: VirtualClock) -> FleetService:
    scheduler = Scheduler(clock)
    parts: list[Any] = [Front(), SimpleNamespace(), SimpleNamespace(tokenizer="")]
    return FleetService("router", scheduler, SchedulingLoop(scheduler), *parts)


def test_a_worker_that_is_gone_before_it_was_heard_leaves_nothing_behind(tmp_path: Path) -> None:
    """As one that another of its name throws out in the very moment in which it joins."""
    clock, files = VirtualClock(), tokenizer_files(tmp_path)
    service = fleet_service(clock)

    async def messages() -> AsyncIterator[fleet_pb2.FromWorker]:
        yield fleet_pb2.FromWorker(verifier_hello=hello_of(files))

    async def act() -> None:
        joining = service.Join(messages(), None)
        assert (await anext(joining)).HasField("welcome")
        reader = service.streams["target"].reader
        assert reader is not None
        reader.cancel()
        await clock.sleep(1.0)
        assert reader.cancelled()

    clock.run(act())
    gc.collect()  # what was begun and never awaited is told of now, as an error
    assert not service.streams


def test_a_verifier_that_is_refused_throws_nobody_out(tmp_path: Path) -> None:
    clock, files = VirtualClock(), tokenizer_files(tmp_path)
    service = fleet_service(clock)
    scheduler = service.scheduler

    def joins(hello: fleet_pb2.VerifierHello) -> WorkerStream:
        stream = WorkerStream(is_verifier=True)
        service.streams[service._admit_verifier(hello, stream)] = stream
        return stream

    refused: list[tuple[fleet_pb2.VerifierHello, type[SpecfleetError]]] = [
        (hello_of(files, name="another"), AlreadyExists),
        (hello_of(files, name="verifier", model=types_pb2.ModelIdentity(name="other")), InvalidArgument),
        (hello_of({**files, "tokenizer.json": b"{"}, name="verifier"), SpecfleetError),
        (fleet_pb2.VerifierHello(name="verifier"), InvalidArgument),
    ]

    async def act() -> None:
        first = joins(hello_of(files, name=""))
        for hello, error in refused:
            with pytest.raises(error):
                joins(hello)
            assert service.streams == {"verifier": first}
            assert scheduler.verifier is not None
        again = joins(hello_of(files, name=""))
        assert service.streams == {"verifier": again}, "its last stream may not have been noticed to be dead"
        assert [message async for message in first.messages()] == []

    clock.run(act())
