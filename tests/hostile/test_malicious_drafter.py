"""Drafters that lie: no token changes, honest drafters stay, whoever breaks the protocol is put out for a while."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contracts.config import DrafterConfig
from contracts.types import DrafterId
from router.quarantine import QuarantineRules
from specfleet.v1 import admin_pb2, admin_pb2_grpc, fleet_pb2
from speculation.scores import kind_at
from tests.engine.checkpoints import write_checkpoint
from tests.hostile.liar import DEADLINE_S, Heard, Liar, drafts, lying, nodes
from tests.service.fleet import RunningFleet, engine_of, running_fleet

TWIN = "twin"
NUM_TEXTS = 3
OUT = grpc.StatusCode.RESOURCE_EXHAUSTED
Says = Callable[[Mapping[int, Heard]], bytes | None]
Scene = Callable[[RunningFleet, list[list[int]]], Awaitable[None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("malicious") / "tiny", "llama")


def play(folder: Path, scene: Scene) -> None:
    async def run() -> None:
        twin = DrafterConfig(kind="model", engine=engine_of(folder))
        async with running_fleet(engine_of(folder), {TWIN: twin}) as fleet:
            await scene(fleet, await texts(fleet, mode="off"))

    asyncio.run(run())


async def texts(fleet: RunningFleet, mode: str = "fleet") -> list[list[int]]:
    said = [fleet.say(f"text {seed}", mode=mode, seed=seed, temperature=0.8) for seed in range(NUM_TEXTS)]
    return [each.tokens for each in await asyncio.gather(*said)]


def about_one(heard: Mapping[int, Heard], make: Callable[[Heard], fleet_pb2.Draft]) -> bytes | None:
    """A draft for a sequence that the drafter really has."""
    return next((drafts(make(each)) for each in heard.values()), None)


def draft(of: Heard, said: list[fleet_pb2.DraftNode], **fields: object) -> fleet_pb2.Draft:
    told = {"sequence": of.sequence, "epoch": of.epoch, "position": len(of.tokens), **fields}
    return fleet_pb2.Draft(nodes=said, **told)  # type: ignore[arg-type]


def everywhere(make: Callable[[Heard], fleet_pb2.Draft]) -> Says:
    return lambda heard: about_one(heard, make)


def chain(length: int, token: int = 7) -> list[fleet_pb2.DraftNode]:
    return nodes(*((token, index - 1, 0.9) for index in range(length)))


def lies_of_what_it_was_never_told(heard: Mapping[int, Heard]) -> bytes | None:
    return next(
        (
            drafts(evidence=[fleet_pb2.Evidence(sequence=e.sequence, epoch=e.epoch, num_tokens=4096, num_agreed=4096)])
            for e in heard.values()
        ),
        None,
    )


BREAKS: dict[str, Says] = {
    "token-out-of-vocabulary": everywhere(lambda of: draft(of, nodes((2**32 - 1, -1, 0.9)))),
    "giant-tree": everywhere(lambda of: draft(of, chain(4097))),
    "tree-after-tree": everywhere(lambda of: draft(of, chain(1000))),
    "cycle": everywhere(lambda of: draft(of, nodes((5, -1, 0.9), (6, 2, 0.9), (7, 1, 0.9)))),
    "below-itself": everywhere(lambda of: draft(of, nodes((5, 0, 0.9)))),
    "position-ahead": everywhere(lambda of: draft(of, chain(2), position=len(of.tokens) + 1000)),
    "position-before": everywhere(lambda of: draft(of, chain(2), position=0)),
    "nan": everywhere(lambda of: draft(of, nodes((5, -1, math.nan)))),
    "infinite": everywhere(lambda of: draft(of, nodes((5, -1, math.inf)))),
    "negative": everywhere(lambda of: draft(of, nodes((5, -1, -0.5)))),
    "step-of-no-time": lambda heard: drafts(steps=[fleet_pb2.StepReport(num_rows=1, num_sequences=1, elapsed_s=0.0)]),
    "nonsense": lambda heard: b"\xff" * 40,
    "another-hello": lambda heard: fleet_pb2.FromWorker(drafter_hello=fleet_pb2.DrafterHello()).SerializeToString(),
    "speaks-for-the-target": lambda heard: fleet_pb2.FromWorker(round_done=fleet_pb2.RoundDone()).SerializeToString(),
    "evidence-of-what-it-was-never-told": lies_of_what_it_was_never_told,
    "huge-messages": lambda heard: drafts(fleet_pb2.Draft(below=[2**31] * 2**20)),
    "many-parts": lambda heard: drafts(*[fleet_pb2.Draft(sequence=1)] * 3000),
}
"""What no honest drafter can say."""


def flood() -> Says:
    """Thousands of messages as fast as the socket takes them, each of which is nothing wrong."""
    return lambda heard: drafts()


def test_whoever_breaks_the_protocol_is_put_out_and_changes_no_token(folder: Path) -> None:
    async def scene(fleet: RunningFleet, expected: list[list[int]]) -> None:
        quarantine = fleet.router.fleet.quarantine
        for number, (lie, says) in enumerate(BREAKS.items(), 1):
            liar = Liar(fleet.address, lie, says)
            refused = asyncio.create_task(liar.until_refused(OUT))
            async with asyncio.timeout(DEADLINE_S):
                while not refused.done():
                    assert await texts(fleet) == expected, lie
            error = await refused
            assert (quarantine.num_begun, lie in quarantine.held()) == (number, True)
            assert "in quarantine for 30 s" in (error.details() or ""), lie
            assert retry_s(error) > 20.0
            # It stays out, and is not let in to be looked at again.
            num_joined = liar.num_joined
            again = await liar.until_refused(OUT)
            assert (liar.num_joined, "in quarantine" in (again.details() or "")) == (num_joined, True)
        assert await texts(fleet) == expected
        assert set(fleet.router.fleet.streams) == {"verifier", TWIN}
        status = await admin_pb2_grpc.AdminStub(fleet.channel).Status(admin_pb2.StatusRequest())
        states = {drafter.name: drafter.state for drafter in status.drafters}
        assert states == {TWIN: states[TWIN], **dict.fromkeys(BREAKS, "quarantined")}
        assert states[TWIN] in ("idle", "drafting")

    play(folder, scene)


def retry_s(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it needs no more of a call than this has
    hint = error_details_pb2.RetryInfo()
    (found,) = [detail for detail in status.details if detail.Is(hint.DESCRIPTOR)]
    found.Unpack(hint)
    return float(hint.retry_delay.ToTimedelta().total_seconds())


def test_floods_and_those_that_come_and_go_are_put_out_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hostile.liar.PACE_S", 0.0)

    async def scene(fleet: RunningFleet, expected: list[list[int]]) -> None:
        async def comes_and_goes() -> None:
            liar = Liar(fleet.address, "visitor", lambda heard: b"")
            while "visitor" not in fleet.router.fleet.quarantine.held():
                task = asyncio.create_task(liar.lie())
                while not liar.num_joined and not task.done():  # noqa: ASYNC110  # it says it nowhere else
                    await asyncio.sleep(0)
                liar.num_joined = 0
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        flooder = Liar(fleet.address, "flooder", flood())
        attacks = asyncio.gather(flooder.until_refused(OUT), comes_and_goes())
        async with asyncio.timeout(DEADLINE_S):
            while not attacks.done():
                assert await texts(fleet) == expected
        await attacks
        assert set(fleet.router.fleet.quarantine.held()) == {"flooder", "visitor"}
        assert await texts(fleet) == expected
        assert set(fleet.router.fleet.streams) == {"verifier", TWIN}

    play(folder, scene)


def is_sure_and_wrong(of: Heard) -> fleet_pb2.Draft:
    wrong = (sum(of.tokens) * 31 + 7) % 200 + 20
    return draft(of, chain(4, token=wrong), is_last=True)


def is_late(of: Heard) -> fleet_pb2.Draft:
    """As if it had not heard of the last tokens, nor of a restart."""
    return draft(of, chain(2), position=max(len(of.tokens) - 3, of.num_prompt), epoch=of.epoch, is_last=True)


def belongs_to_nothing(of: Heard) -> fleet_pb2.Draft:
    return draft(of, chain(2), sequence=of.sequence + 1000, epoch=of.epoch + 7)


def agrees_with_all(heard: Mapping[int, Heard]) -> bytes | None:
    judged: list[fleet_pb2.Evidence] = []
    for each in heard.values():
        if num := len(each.tokens) - each.num_prompt:
            each.num_prompt += num
            judged.append(fleet_pb2.Evidence(sequence=each.sequence, epoch=each.epoch, num_tokens=num, num_agreed=num))
    return drafts(evidence=judged) if judged else None


def once_a_token(make: Callable[[Heard], fleet_pb2.Draft]) -> Says:
    """As often as an honest drafter would say something."""
    said: dict[int, int] = {}

    def says(heard: Mapping[int, Heard]) -> bytes | None:
        new = [each for each in heard.values() if said.get(each.sequence) != len(each.tokens)]
        said.update({each.sequence: len(each.tokens) for each in new})
        return drafts(*map(make, new)) if new else None

    return says


ABSURD = {"step_s": 1e-7, "capacity": 2**32 - 1, "prefill_s_per_token": 0.0, "num_logprobs": 2**32 - 1}


@pytest.mark.parametrize(
    ("says", "hello", "is_judged"),
    [
        pytest.param(once_a_token(is_sure_and_wrong), {}, True, id="sure-and-wrong"),
        pytest.param(once_a_token(is_late), {}, False, id="late"),
        pytest.param(once_a_token(belongs_to_nothing), {}, False, id="stale"),
        pytest.param(agrees_with_all, {}, False, id="evidence-that-lies"),
        pytest.param(lambda heard: None, ABSURD, False, id="absurdly-fast-and-silent"),
        pytest.param(once_a_token(is_sure_and_wrong), ABSURD, True, id="absurdly-fast-and-wrong"),
    ],
)
def test_who_is_late_wrong_or_boasts_costs_speed_and_is_not_put_out(
    folder: Path, says: Says, hello: Mapping[str, object], is_judged: bool
) -> None:
    async def scene(fleet: RunningFleet, expected: list[list[int]]) -> None:
        async with lying(Liar(fleet.address, "boaster", says, hello=hello)):
            for _ in range(3):
                assert await texts(fleet) == expected
            assert set(fleet.router.fleet.streams) == {"verifier", TWIN, "boaster"}
        quarantine = fleet.router.fleet.quarantine
        assert (quarantine.held(), quarantine.num_by_kind["broken"], quarantine.num_by_kind["unasked"]) == ({}, 0, 0)
        calibrator = fleet.router.scheduler.roster.calibrator
        known = {drafter for (drafter, _), _ in calibrator.sources()}
        assert DrafterId("boaster") in known or not is_judged
        # It was sure, and is worth far less than it says; how much less depends on how often it was in time.
        if DrafterId("boaster") in known:
            assert calibrator.confidence(DrafterId("boaster"), kind_at(0.8), 1, 0.9) < 0.5

    play(folder, scene)


def test_after_the_pause_it_may_join_again(folder: Path) -> None:
    async def scene(fleet: RunningFleet, expected: list[list[int]]) -> None:
        fleet.router.fleet.quarantine.rules = QuarantineRules(first_pause_s=0.3)
        liar = Liar(fleet.address, "convert", lambda heard: b"\xff")
        await liar.until_refused(OUT)
        liar.says = lambda heard: None
        async with asyncio.timeout(DEADLINE_S):
            while "convert" in fleet.router.fleet.quarantine.held():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
        async with lying(liar):
            assert "convert" in fleet.router.fleet.streams
            assert await texts(fleet) == expected

    play(folder, scene)
