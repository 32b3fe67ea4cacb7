"""The front door with a target that decides when the test says so: who leaves, what is paid for, what a store lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

import pytest

from contracts.clock import VirtualClock
from contracts.config import StoreConfig
from contracts.errors import DeadlineExceeded, NotFound, QuotaExceeded
from contracts.types import DrafterId, ModelIdentity, RequestId, SamplingParams, StopParams
from router.admission import FrontLimits
from router.answer import Reason
from router.asked import Asked, Speculation
from router.front import Front
from router.journal.journal import StoreLost
from router.journal.leadership import Leadership
from router.journal.memory import MemoryJournal
from router.journal.recorder import Recorder
from router.request import Request
from router.request_key import RequestKey
from router.scheduler import Scheduler
from router.scheduling_loop import SchedulingLoop
from router.security.caller import NOBODY
from router.security.quotas import Quotas
from router.statistics import request_statistics
from router.target_text import TargetText
from specfleet.keys import Limits
from speculation.roster import Member
from tests.engine.checkpoints import TOKENIZER_SIZE, write_tokenizer
from tests.router.offers import verifier_offer

MODEL = ModelIdentity(
    name="m",
    architecture="llama",
    vocab_size=TOKENIZER_SIZE,
    tokenizer_digest="t",
    weights_digest="w",
    dtype="float32",
    num_parameters=1,
)
OFFER = verifier_offer(model=MODEL, num_blocks=64, num_real_tokens=TOKENIZER_SIZE)
GRACE_S = 5.0


class Unsure(MemoryJournal):
    """A store that has taken a request and says so when it may, or fails to."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock, keep_s=600.0)
        self.fails, self.may_answer = False, asyncio.Event()
        self.may_answer.set()
        self.broken: list[RequestKey] = []

    async def accept(self, owner: str, request: RequestKey, record: bytes) -> bool:
        is_new = await super().accept(owner, request, record)
        if self.fails:
            raise StoreLost("not durable within 2 s")
        await self.may_answer.wait()
        return is_new

    async def probe(self, owner: str) -> None:
        if self.fails:
            raise StoreLost("not durable within 2 s")
        await super().probe(owner)

    async def read(self, request: RequestKey) -> list[bytes]:
        if request in self.broken:
            raise LookupError("what nobody thought of")
        return await super().read(request)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TargetText:
    folder = tmp_path_factory.mktemp("front")
    write_tokenizer(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return TargetText.load(files, vocab_size=TOKENIZER_SIZE, end_tokens=[])


@dataclass
class Scene:
    """Routers that follow one another on one journal."""

    text: TargetText
    clock: VirtualClock
    journal: Unsure
    quotas: Quotas

    async def router(self) -> Front:
        """One that leads. Its requests wait for a verifier for ever: the test says what was decided."""
        leadership = Leadership(self.journal, lease_s=3.0, now_s=self.clock.now_s)
        if (lease := await self.journal.lease()) is not None:
            await self.journal.release(lease.owner)
        assert await leadership.attempt()
        recorder = Recorder(self.journal, leadership, StoreConfig(url="redis://localhost"), self.clock)
        scheduler = Scheduler(self.clock)
        limits = FrontLimits(grace_s=GRACE_S)
        front = Front(scheduler, SchedulingLoop(scheduler), self.clock, limits, recorder, self.quotas)
        front.target_joined(OFFER, self.text)
        await asyncio.sleep(0)
        return front


def play(text: TargetText, act: Callable[[Scene], Coroutine[None, None, None]], limits: Limits | None = None) -> None:
    clock = VirtualClock()
    quotas = Quotas(clock, None if limits is None else lambda _: limits)
    clock.run(act(Scene(text, clock, Unsure(clock), quotas)))


def asked(name: str, deadline_s: float | None = None) -> Asked:
    stop = StopParams(max_tokens=4, ignore_eos=True)
    prompt = (5, 6, 7)
    return Asked(prompt=prompt, sampling=SamplingParams(), stop=stop, seed=1, request_id=name, deadline_s=deadline_s)


def decide(request: Request, *tokens: int) -> None:
    request.choices[0].answer.take(tokens, [None] * len(tokens), ())


def test_a_reader_who_leaves_between_two_pieces_lets_go_of_the_request(text: TargetText) -> None:
    """As a gRPC client does that vanishes while an answer is being sent to it."""

    async def read_slowly(front: Front, request: Request) -> None:
        async for _ in front.read(request, 0):
            await asyncio.sleep(1e6)

    async def act(scene: Scene) -> None:
        front = await scene.router()
        request = await front.generate(asked("a"))
        answer = request.choices[0].answer
        reading = asyncio.create_task(read_slowly(front, request))
        decide(request, 5)
        await asyncio.sleep(2.0 * GRACE_S)
        assert not request.has_ended, "it is being read"
        reading.cancel()
        await asyncio.wait([reading])
        del reading  # and with it what it was in the middle of
        await asyncio.sleep(2.0 * GRACE_S)
        assert answer.ended is not None
        assert answer.ended.reason is Reason.CANCELLED

    play(text, act)


def test_what_was_refused_does_not_stay_in_a_store_that_had_it_nevertheless(text: TargetText) -> None:
    known, unsure, late = (RequestKey(NOBODY, RequestId(name)) for name in ("known", "unsure", "late"))

    async def act(scene: Scene) -> None:
        journal, first = scene.journal, await scene.router()
        decide(await first.generate(asked("known")), 1, 2, 3, 4)
        await first.recorder.flush()
        front = await scene.router()
        journal.may_answer.clear()
        with pytest.raises(DeadlineExceeded):
            await front.generate(asked("late", deadline_s=1.0))
        for name in ("known", "unsure"):
            journal.fails = True
            with pytest.raises(StoreLost, match="not durable"):
                await front.generate(asked(name))
            journal.fails = False
            await front.recorder.flush()
        assert [len(await journal.read(key)) for key in (unsure, late)] == [0, 0]
        assert await journal.unfinished() == []
        assert await journal.read(known), "that one was promised before"
        # Asked for again at once it is a new one, and nothing is struck from under it.
        journal.fails = True
        with pytest.raises(StoreLost):
            await front.generate(asked("unsure"))
        watching = asyncio.create_task(front.recorder.watch())
        await asyncio.sleep(1.5)
        assert front.recorder.is_store_lost, "it answers, and takes nothing"
        journal.fails = False
        journal.may_answer.set()
        await asyncio.sleep(1.5)
        watching.cancel()
        request = await front.generate(asked("unsure"))
        assert request.began_s == scene.clock.now_s()
        await front.recorder.flush()
        assert await journal.unfinished() == [unsure]

    play(text, act)


def test_who_stops_waiting_for_the_store_takes_no_place_from_the_request_which_is_paid_for_once(
    text: TargetText,
) -> None:
    async def act(scene: Scene) -> None:
        front = await scene.router()
        scene.journal.may_answer.clear()
        *waiting, b, c = [asyncio.create_task(front.generate(asked(name))) for name in ("a", "a", "b", "c")]
        await asyncio.sleep(0.01)
        for waits in waiting:
            waits.cancel()
            await asyncio.wait([waits])
            with pytest.raises(QuotaExceeded, match="3 requests at a time"):
                await front.generate(asked("d"))
        again = asyncio.create_task(front.generate(asked("b")))  # it has its place
        await asyncio.sleep(0.01)
        scene.journal.may_answer.set()
        assert await again is await b
        for request in (await front.find("a", NOBODY), await b, await c):
            decide(request, 1, 2, 3, 4)
        scene.journal.fails = True
        with pytest.raises(StoreLost):
            await front.generate(asked("d"))
        scene.journal.fails = False
        await front.recorder.flush()
        for name in ("e", "f", "g"):
            request = await front.generate(asked(name))
        with pytest.raises(QuotaExceeded, match="3 requests at a time"):
            await front.generate(asked("h"))
        decide(request, 1, 2, 3, 4)
        with pytest.raises(QuotaExceeded, match="7 requests a minute"):
            await front.generate(asked("h"))

    play(text, act, Limits(max_concurrent=3, requests_per_minute=7))


def test_a_request_that_cannot_be_read_keeps_no_other_from_going_on(text: TargetText) -> None:
    async def act(scene: Scene) -> None:
        first = await scene.router()
        for name in "abc":
            await first.generate(asked(name))
        *scene.journal.broken, last = await scene.journal.unfinished()
        second = await scene.router()
        await asyncio.sleep(1.0)
        assert [request.key for request in second.requests()] == [last]

    play(text, act)


def test_of_an_answer_that_another_router_began_no_times_are_told_that_nobody_knows(text: TargetText) -> None:
    async def act(scene: Scene) -> None:
        first = await scene.router()
        decide(await first.generate(asked("cut")), 1, 2)
        await first.recorder.flush()
        assert first.figures.first_token_s.num == 1
        await asyncio.sleep(600.0)
        second = await scene.router()
        decide(request := await second.find("cut", NOBODY), 3, 4)
        assert [token.token for token in request.choices[0].answer.tokens] == [1, 2, 3, 4]
        assert second.figures.finished[Reason.LENGTH] == 1
        assert second.figures.first_token_s.num == second.figures.token_s.num == 0
        assert request_statistics(request, request.choices[0]).time_to_first_token_s == 0.0

    play(text, act)


def test_a_drafter_that_is_not_there_is_told_by_some_of_those_that_are(text: TargetText) -> None:
    async def act(scene: Scene) -> None:
        front = await scene.router()
        for index in range(200):
            front.scheduler.roster.join(Member(drafter=DrafterId(f"d{index:03d}"), has_logits=False, step_s=0.001))
        with pytest.raises(NotFound, match=r"drafter 'x' is not .*; there are d000, .*, d011 and 188 more$"):
            await front.generate(replace(asked("a"), speculation=Speculation(drafters=("x",))))

    play(text, act)
