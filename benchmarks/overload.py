"""What a router does at ten times its capacity: `python -m benchmarks.overload --target DIR`.

The router runs in this process, verifier and load as processes of their own. First the capacity is measured with as
many clients as run at a time; then requests arrive ten times as fast, at random moments, each with a deadline, for a
while; then the load stops. Told are: refusals by the time from the front door to the refusal (the router's own clock),
how late the event loop was (what a message waits before it is looked at), what became of those accepted, memory, and
how soon a lone request is as fast as before. Refused clients do not come again; all of it ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from benchmarks.service_rig import MeasuredFleet, measured_fleet
from contracts.errors import Overloaded
from router.asked import Asked
from router.front import Front, FrontLimits
from router.request import Request
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc

__all__ = ["main"]

_LOOK_S = 0.005
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command, and the process that makes the load."""
    options = _parser().parse_args(arguments)
    if options.load:
        asyncio.run(_load(options))
    else:
        asyncio.run(_measure(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--target", default="models/demo/target", help="folder of the target")
    parser.add_argument("--times", type=float, default=10.0, help="of the capacity (default 10)")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--deadline", type=float, default=10.0, help="of each request, in seconds (default 10)")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--running", type=int, default=8, help="sequences that run at a time (default 8)")
    parser.add_argument("--waiting", type=int, default=16, help="that may wait (default 16)")
    parser.add_argument("--load", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser


# The load


@dataclass(frozen=True)
class _Seen:
    """What clients saw: how often each outcome, and the seconds of those that were answered in full."""

    outcomes: dict[str, int]
    times: list[float]


async def _load(options: argparse.Namespace) -> None:
    """Requests at a rate, or with no rate as many clients as run at a time, one request after the other."""
    chance, outcomes, times = random.Random(1), Counter[str](), list[float]()
    async with grpc.aio.insecure_channel(options.load) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        end_s = time.monotonic() + options.seconds

        async def one() -> None:
            began_s = time.monotonic()
            outcome = await _ask(stub, options)
            outcomes[outcome] += 1
            if outcome == "OK":
                times.append(time.monotonic() - began_s)

        async def client() -> None:
            while time.monotonic() < end_s:
                await one()

        if options.rate:
            asked: set[asyncio.Task[None]] = set()
            due_s = time.monotonic()
            while due_s < end_s:
                await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
                asked.add(asyncio.create_task(one()))
                due_s += chance.expovariate(options.rate)
            await asyncio.gather(*asked)
        else:
            await asyncio.gather(*(client() for _ in range(options.running)))
    print(json.dumps(asdict(_Seen(dict(outcomes), times))))


async def _ask(stub: inference_pb2_grpc.InferenceStub, options: argparse.Namespace) -> str:
    stop = pb.Stop(max_tokens=options.max_tokens, ignore_eos=True)
    finished = pb.FINISH_REASON_UNSPECIFIED
    try:
        async for response in stub.Generate(
            pb.GenerateRequest(prompt="In a small town by the sea", stop=stop), timeout=options.deadline
        ):
            finished = response.finished.reason or finished
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK" if finished == pb.FINISH_REASON_LENGTH else pb.FinishReason.Name(finished)


# The router


@dataclass
class _Door:
    """The front door with a watch in it."""

    front: Front
    refused_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    hints: set[float] = field(default_factory=set)
    most_waiting: int = 0
    most_requests: int = 0

    def __post_init__(self) -> None:
        self._generate = self.front.generate
        self.front.generate = self.generate  # type: ignore[method-assign]

    async def generate(self, asked: Asked) -> Request:
        began_s = time.perf_counter()
        try:
            return await self._generate(asked)
        except Overloaded as error:
            self.refused_s.append(time.perf_counter() - began_s)
            self.hints.add(error.retry_after_s or 0.0)
            raise

    async def look(self) -> None:
        """How late the loop is, and how much waits."""
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(_LOOK_S)
            self.late_s.append(time.perf_counter() - began_s - _LOOK_S)
            self.most_waiting = max(self.most_waiting, len(self.front.scheduler.waiting))
            self.most_requests = max(self.most_requests, len(self.front.requests()))


async def _measure(options: argparse.Namespace) -> None:
    limits = FrontLimits(mode="off", max_waiting=options.waiting, keep_s=2.0)
    async with measured_fleet(target=options.target, drafters=(), limits=limits, dtype="float32", threads=1) as fleet:
        fleet.router.scheduler.max_running = options.running
        alone_s = await _alone(fleet, options)
        calm = await _loaded(fleet, options, rate=0.0)
        capacity = calm.outcomes["OK"] / options.seconds
        print(f"capacity: {capacity:.1f} requests/s of {options.max_tokens} tokens, {options.running} at a time")
        door, before = _Door(fleet.router.front), _memory()
        async with _looking(door):
            storm = await _loaded(fleet, options, rate=options.times * capacity)
        ended_s, most = time.monotonic(), _memory()
        while fleet.router.scheduler.running or fleet.router.scheduler.waiting:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)
        empty_s = time.monotonic() - ended_s
        _tell(options, storm, door)
        print(f"memory: {before:.0f} MiB before, {most:.0f} MiB after the load, {_memory():.0f} MiB when all is over")
        print(
            f"afterwards: empty {empty_s:.2f} s after the last answer; a lone request takes "
            f"{await _alone(fleet, options):.3f} s, before {alone_s:.3f} s"
        )


def _tell(options: argparse.Namespace, storm: _Seen, door: _Door) -> None:
    outcomes = Counter(storm.outcomes)
    num_refused, num_asked = outcomes["RESOURCE_EXHAUSTED"], sum(outcomes.values())
    print(
        f"at {options.times:g} times of it for {options.seconds:g} s: {num_asked} asked, {num_refused} refused, "
        f"{num_asked - num_refused} accepted: {dict(outcomes - Counter(RESOURCE_EXHAUSTED=num_refused))}"
    )
    hints = f"{min(door.hints, default=0.0):.1f} to {max(door.hints, default=0.0):.1f} s"
    print(f"refusals: from the front door {_percentiles(door.refused_s)}; retry after {hints}")
    print(f"event loop: late by {_percentiles(door.late_s)}")
    if storm.times:
        print(f"accepted and answered: {_percentiles(storm.times)}; deadline {options.deadline:g} s")
    print(f"most at a time: {door.most_waiting} waiting of {options.waiting}, {door.most_requests} requests in memory")


def _percentiles(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "(too few)"
    of = statistics.quantiles(seconds, n=1000, method="inclusive")
    told = {"p50": of[499], "p99": of[989], "p99.9": of[998], "most": max(seconds)}
    return ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in told.items())


@contextlib.asynccontextmanager
async def _looking(door: _Door) -> AsyncIterator[None]:
    looking = asyncio.create_task(door.look())
    try:
        yield
    finally:
        looking.cancel()


async def _loaded(fleet: MeasuredFleet, options: argparse.Namespace, *, rate: float) -> _Seen:
    """What the process that makes the load has seen."""
    told = {name: getattr(options, name) for name in ("seconds", "deadline", "max_tokens", "running")}
    arguments = [part for name, value in told.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.overload", "--load", f"127.0.0.1:{fleet.router.port}"),
        *("--rate", str(rate), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return _Seen(**json.loads(said))


async def _alone(fleet: MeasuredFleet, options: argparse.Namespace) -> float:
    """Of a few requests, one after the other, the median."""
    times = []
    for _ in range(5):
        began_s = time.monotonic()
        await _ask(fleet.stub, options)
        times.append(time.monotonic() - began_s)
    return statistics.median(times)


def _memory() -> float:
    """Of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20


if __name__ == "__main__":
    sys.exit(main())
