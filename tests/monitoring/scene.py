"""A fleet that has met with everything that it counts: load, refusals, cancels, drafters that go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
from prometheus_client.parser import text_string_to_metric_families

from contracts.config import DrafterConfig
from router.front import FrontLimits
from router.metrics.exposition import metrics_text
from specfleet.v1 import inference_pb2 as pb
from tests.service.fleet import RunningFleet, engine_of, running_fleet

__all__ = ["NUM_TOKENS", "PROMPT", "Exported", "fleet_of", "keep_busy", "send_some"]

PROMPT = "the cat sat on the mat and the cat sat on"
NUM_TOKENS = 48


@asynccontextmanager
async def fleet_of(folder: Path) -> AsyncIterator[RunningFleet]:
    """Its drafters and its target take turns, pay or not, so that all it does is sure to happen on any machine."""
    model = DrafterConfig(kind="model", engine=engine_of(folder))
    limits = FrontLimits(mode="vanilla-pricing", keep_s=1.0)
    async with running_fleet(engine_of(folder), {"one": model, "other": model}, limits=limits) as fleet:
        yield fleet


async def send_some(fleet: RunningFleet, *, num: int = 6) -> None:
    """Requests at the same time; one cancelled, one refused."""
    answers = [fleet.say(PROMPT, mode="unspecified", seed=seed, max_tokens=NUM_TOKENS) for seed in range(num)]
    await asyncio.gather(*answers, _cancelled(fleet), _refused(fleet))


async def keep_busy(fleet: RunningFleet) -> None:
    """For ever."""
    for _ in itertools.count():
        await send_some(fleet)


async def _cancelled(fleet: RunningFleet) -> None:
    """By its client, after its first token."""
    call = fleet.stub.Generate(pb.GenerateRequest(prompt=PROMPT, stop=pb.Stop(max_tokens=400)))
    async for response in call:
        if response.HasField("tokens"):
            await fleet.stub.Cancel(pb.CancelRequest(request_id=response.request_id))


async def _refused(fleet: RunningFleet) -> None:
    with suppress(grpc.aio.AioRpcError):
        await fleet.say(PROMPT, max_tokens=10**6)


class Exported:
    """What a router exports at one moment, by name."""

    def __init__(self, text: str) -> None:
        self.types: dict[str, str] = {}
        self.about: dict[str, str] = {}
        self._samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.types[name], self.about[name] = family.type, family.documentation
            for sample in family.samples:
                self._samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value

    @classmethod
    async def of(cls, fleet: RunningFleet) -> Exported:
        return cls(await metrics_text(fleet.router.front))

    def sum(self, name: str, **where: str) -> float:
        """Of all its series with these labels."""
        return sum(value for labels, value in self.series(name).items() if where.items() <= dict(labels).items())

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """All there is: name, labels, value."""
        for name, series in self._samples.items():
            for labels, value in series.items():
                yield name, dict(labels), value

    def series(self, name: str) -> Mapping[frozenset[tuple[str, str]], float]:
        return self._samples.get(name, {})

    def labels(self, name: str) -> frozenset[str]:
        """Of a family's series, but for a histogram's bounds."""
        kinds = ("_bucket", "_sum", "_count") if self.types[name] == "histogram" else ("",)
        found = {label for kind in kinds for labels in self.series(f"{name}{kind}") for label, _ in labels}
        return frozenset(found - {"le"})
