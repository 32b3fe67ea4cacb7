"""Drafters in the target's process, as its actor sees it: whatever order it hears things in, nobody stays who is not
wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import lodging
from cluster.hosting import Hosted
from cluster.hosting import drafter as hosted_drafter
from cluster.lodging import TargetHost
from cluster.plan import Dial, drafter_placement
from cluster.ray_api import Cluster, Guest
from contracts.config import DrafterConfig, EngineConfig, VerifierConfig
from tests.engine.checkpoints import write_checkpoint

DIAL = Dial(router="127.0.0.1:1")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    folder = write_checkpoint(tmp_path_factory.mktemp("lodging") / "tiny", "llama", num_hidden_layers=1)
    sizes: dict[str, Any] = {"dtype": "float32", "device": "cpu", "num_threads": 1, "kv_cache_bytes": 2**20}
    return EngineConfig(model=str(folder), **sizes)


@pytest.fixture
def actor(engine: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[TargetHost]:
    """The actor's class without Ray around it; at its end all that live in it leave."""
    monkeypatch.setattr(lodging, "settle_logs", lambda kind: None)
    made = TargetHost(DIAL, engine.model_dump_json(), VerifierConfig().model_dump_json(), "{}")
    yield made
    for lodged in list(made._lodged.values()):
        lodged.hosted.leave()
        lodged.hosted.wait_until_ended()
    made._shared.close()


def drafter(engine: EngineConfig, capacity: int = 1) -> str:
    config = DrafterConfig(kind="model", engine=engine, with_target=True, capacity=capacity)
    return config.model_dump_json()


def hosted(actor: TargetHost) -> Hosted:
    return actor._lodged["small"].hosted


def phase(actor: TargetHost, wanted: str) -> dict[str, Any]:
    """The state of the drafter when it is this."""
    state = actor.state("small", -1)
    while state["phase"] != wanted:
        state = actor.state("small", state["version"])
    return state


def test_it_is_made_once_for_all_who_want_it_and_anew_when_it_has_gone(actor: TargetHost, engine: EngineConfig) -> None:
    assert actor.state("small", -1)["phase"] == "absent"
    first = actor.lodge("a", DIAL, "small", drafter(engine))
    phase(actor, "serving")
    before = hosted(actor)
    assert actor.lodge("b", DIAL, "small", drafter(engine, capacity=2))["made_of"] == first["made_of"]
    assert hosted(actor) is before, "who finds another one is told what it is made of, and sends it away"
    actor.dismiss("b", "small")
    phase(actor, "left")
    assert before.worker is None
    assert actor.lodge("b2", DIAL, "small", drafter(engine, capacity=2))["made_of"] != first["made_of"]
    phase(actor, "serving")
    assert hosted(actor) is not before


def test_who_is_not_wanted_any_more_does_not_come(actor: TargetHost, engine: EngineConfig) -> None:
    """Calls of one caller start in order, and nothing says that they end so."""
    actor.dismiss("a", "small")
    assert actor.lodge("a", DIAL, "small", drafter(engine))["phase"] == "left"
    assert actor.state("small", -1)["phase"] == "absent"
    actor.lodge("b", DIAL, "small", drafter(engine))
    actor.dismiss("a", "small")
    phase(actor, "serving")
    assert not hosted(actor).is_over, "another wants it"


def test_one_that_was_told_to_go_before_it_loaded_never_does(
    actor: TargetHost, engine: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its successor waits until it has gone, for it may need its memory."""
    is_loading, may_load, num_loaded = threading.Event(), threading.Event(), 0

    def slowly(name: str, config: DrafterConfig) -> Any:
        nonlocal num_loaded
        num_loaded += 1
        is_loading.set()
        assert may_load.wait(60)
        return hosted_drafter(name, config)

    monkeypatch.setattr(lodging, "drafter", slowly)
    for stay in ("a", "b", "c"):
        actor.lodge(stay, DIAL, "small", drafter(engine))
        if stay == "a":
            assert is_loading.wait(60)
        if stay != "c":
            actor.dismiss(stay, "small")
    may_load.set()
    phase(actor, "serving")
    assert num_loaded == 2


class Handle:
    """Of an actor: what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, method: str) -> Any:
        class Method:
            @staticmethod
            def remote(*arguments: object) -> str:
                self.asked.append(method)
                return method

        return Method


def test_one_that_had_a_process_of_its_own_goes_first(engine: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    class Before:
        def remove(self) -> None:
            removed.append("small")

    cluster, handle = Cluster.__new__(Cluster), Handle()
    cluster._target = handle
    monkeypatch.setattr(Cluster, "find", lambda self, name: Before())
    config = DrafterConfig.model_validate_json(drafter(engine))
    guest = cluster.place_drafter(drafter_placement("small", config, is_local=True), config, DIAL)
    assert (removed, handle.asked) == (["small"], ["lodge"])
    assert isinstance(guest, Guest)


def test_who_has_ended_is_asked_nothing_until_it_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to one that has ended would keep a thread of the actor for half a minute."""
    handle = Handle()
    guest = Guest("small", handle, (DIAL, "small", "{}"))
    state = {"version": 3, "phase": "failed", "reason": "no memory", "pid": 7, "made_of": guest._made_of}
    monkeypatch.setattr("ray.get", lambda news, timeout: state)
    sighting = guest.read()
    assert sighting is not None
    assert (sighting.phase, guest.news) == ("failed", None)
    guest.restart()
    assert guest.news == "lodge"
    state.update(version=1, phase="loading")
    sighting = guest.read()
    assert sighting is not None
    assert (sighting.phase, guest.news) == ("loading", "state")
    guest.remove()
    assert handle.asked == ["lodge", "lodge", "state", "dismiss"]
