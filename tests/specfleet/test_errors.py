"""Every status becomes the one error class that says what to do, with the hints that came with it."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from specfleet import (
    AlreadyExists,
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    SpecfleetClientError,
    Unauthenticated,
    Unavailable,
)
from tests.specfleet.conftest import Ask
from tests.specfleet.scripted_fleet import LossyProxy, Refusal, ScriptedFleet, ServerThread

CLASSES = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.ABORTED: Internal,
    grpc.StatusCode.DATA_LOSS: Internal,
    grpc.StatusCode.UNIMPLEMENTED: Internal,
}


def test_every_code_has_its_class() -> None:
    assert set(CLASSES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", CLASSES, ids=lambda code: code.name)
def test_a_status_becomes_its_class_with_its_hints(fleet: ScriptedFleet, ask: Ask, code: grpc.StatusCode) -> None:
    fleet.on_call = lambda request: Refusal(code, "not like this", retry_after_s=1.5, reason="Because")
    with pytest.raises(SpecfleetClientError) as caught:
        ask(fleet.address)
    assert type(caught.value) is CLASSES[code]
    if code is not grpc.StatusCode.UNIMPLEMENTED:
        assert str(caught.value) == "not like this"
        assert (caught.value.retry_after_s, caught.value.reason) == (1.5, "Because")
        assert caught.value.details == {"key": "v"}


def test_a_message_that_is_too_large_can_never_work(fleet: ScriptedFleet, ask: Ask) -> None:
    """So gRPC says it, of either side; no fleet is overloaded by that."""
    words = "SERVER: Received message larger than max (68157449 vs. 67108864)"
    fleet.on_call = lambda request: Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
    with pytest.raises(InvalidRequest, match=r"too large: .*\(68157449 vs\. 67108864\)"):
        ask(fleet.address)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_pass_between_processes(copied: Callable[[Overloaded], Overloaded]) -> None:
    again = copied(Overloaded("full", retry_after_s=1.5, reason="Because", details={"key": "v"}))
    assert type(again) is Overloaded
    assert (str(again), again.message, again.retry_after_s) == ("full", "full", 1.5)
    assert (again.reason, again.details) == ("Because", {"key": "v"})


def test_unary_calls_raise_the_same(fleet: ScriptedFleet) -> None:
    fleet.on_call = lambda request: Refusal(grpc.StatusCode.NOT_FOUND, "no such request", reason="NotFound")

    async def awaited() -> None:
        async with AsyncClient(fleet.address) as client:
            await client.cancel("x")

    with pytest.raises(NotFound, match="no such request"):
        asyncio.run(awaited())
    with Client(fleet.address) as client, pytest.raises(NotFound, match="no such request"):
        client.cancel("x")


def test_a_status_without_words_is_described(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.on_call = lambda request: Refusal(grpc.StatusCode.DATA_LOSS, "")
    with pytest.raises(Internal, match="DATA_LOSS without a reason"):
        ask(fleet.address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "Connection refused"), ("nowhere.invalid:50051", "[Nn]ame")],
)
def test_a_fleet_that_is_not_there_is_an_error_at_once(ask: Ask, address: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=rf"no fleet can be reached at {address}: .*{reason}"):
        ask(address)


def test_a_fleet_may_be_far_away(fleet: ScriptedFleet, thread: ServerThread, ask: Ask) -> None:
    proxy = LossyProxy(fleet.port, delay_s=0.2)
    thread.run(proxy.serve())
    try:
        assert ask(f"127.0.0.1:{proxy.port}")
    finally:
        thread.run(proxy.stop())


def test_no_proxy_stands_before_a_fleet_on_this_machine(
    fleet: ScriptedFleet, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    assert ask(fleet.address)
    assert ask(f"localhost:{fleet.port}")


@pytest.mark.parametrize("address", ["", "two words", "http://127.0.0.1:50051"])
def test_an_address_that_makes_no_sense_is_refused(ask: Ask, address: str) -> None:
    with pytest.raises(InvalidRequest, match="give host:port"):
        ask(address)


def test_a_fleet_without_tls_is_not_reached_with_it(fleet: ScriptedFleet, ask: Ask, ours: Path) -> None:
    with pytest.raises(Unavailable, match="no fleet can be reached"):
        ask(fleet.address, client={"tls": ours / "client"})


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", "x" * 257])
def test_what_cannot_be_a_key_is_refused_and_not_shown(fleet: ScriptedFleet, ask: Ask, key: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f"the API key has {len(key)} characters, or some that no key has"
    ) as error:
        ask(fleet.address, client={"api_key": key})
    assert key not in str(error.value)


def test_a_client_has_a_deadline_for_calls_without_one(fleet: ScriptedFleet, ask: Ask) -> None:
    fleet.script.stall_after = 3
    with pytest.raises(DeadlineExceeded):
        ask(fleet.address, client={"timeout_s": 0.2})
