"""Everything the router counts, in the text form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
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


class _Everything(Collector):
    def __init__(self, front: Front) -> None:
        self._front = front

    def collect(self) -> Iterator[Metric]:
        yield from requests(self._front)
        yield from speculation(self._front.scheduler)
        yield from drafters(self._front.scheduler)
        yield from process(self._front)


def metrics_text(front: Front) -> str:
    """As things are now; nothing is gathered before somebody asks."""
    registry = CollectorRegistry()
    registry.register(_Everything(front))
    return generate_latest(registry).decode()
