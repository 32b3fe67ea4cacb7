"""Everything the router counts, in the text form that Prometheus reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from router.front import Front
from router.metrics.drafters import drafters
from router.metrics.process import process
from router.metrics.requests import requests
from router.metrics.speculation import speculation

__all__ = ["CONTENT_TYPE", "metrics_text"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class _Moment(Collector):
    families: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.families


async def metrics_text(front: Front) -> str:
    """As things are when somebody asks.

    With hundreds of drafters these are thousands of lines: they are written in a thread, beside rounds that go on.
    """
    moment = _Moment(list(_everything(front)))
    return (await asyncio.to_thread(generate_latest, moment)).decode()


def _everything(front: Front) -> Iterator[Metric]:
    yield from requests(front)
    yield from speculation(front.scheduler)
    yield from drafters(front.scheduler)
    yield from process(front)
