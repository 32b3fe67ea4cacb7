"""What a fleet tells Ray's metrics: all that its router counts, and how each worker's process is.

Ray's own counters and histograms can only be added to, one value at a time, so a count that somebody else keeps is told
as it is, under its name and labels: what Ray calls gauges. PromQL does not mind, for `rate` and `histogram_quantile`
look at values alone. What is not told again within two of Ray's reports is forgotten there, as it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from cluster.hosting import Hosted
from contracts.clock import Clock
from specfleet.admin import Admin
from specfleet.errors import SpecfleetClientError

__all__ = ["Figure", "RouterFigures", "worker_figures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One value under a name; all figures of a name have the same labels."""

    name: str
    about: str
    labels: Mapping[str, str]
    value: float


class RouterFigures:
    """What the router counts, every so often."""

    def __init__(self, admin: Admin, clock: Clock, *, every_s: float) -> None:
        self._admin, self._clock, self._every_s = admin, clock, every_s
        self._next_s = clock.now_s()

    def due(self) -> Iterable[Figure]:
        """All of it when it is time again; nothing before, and where the router does not answer."""
        if self._clock.now_s() < self._next_s:
            return []
        self._next_s = self._clock.now_s() + self._every_s
        try:
            return list(_figures_of(self._admin.metrics()))
        except SpecfleetClientError:
            return []


def worker_figures(name: str, hosted: Hosted, *, is_guest: bool = False) -> Iterator[Figure]:
    """Of a worker and the process that it lives in, unless that is another's: what nobody else knows."""
    state, worker = hosted.state(after=-1, timeout_s=0.0), hosted.worker
    labels = {"worker": name}
    yield Figure(
        name="specfleet_worker_phase", about="What a worker does.", labels={**labels, "phase": state.phase}, value=1.0
    )
    if worker is not None:
        yield Figure(
            name="specfleet_worker_sequences",
            about="Sequences that it has open.",
            labels=labels,
            value=worker.num_sequences,
        )
        yield Figure(
            name="specfleet_worker_stale_messages_total",
            about="Messages of the router about what is over; dropped.",
            labels=labels,
            value=worker.num_stale,
        )
    if is_guest:
        return
    for family in ProcessCollector(registry=None).collect():
        for sample in family.samples:
            yield Figure(
                name=sample.name.replace("process_", "specfleet_worker_", 1),
                about=family.documentation,
                labels=labels,
                value=sample.value,
            )


def _figures_of(text: str) -> Iterator[Figure]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Figure(name=sample.name, about=family.documentation, labels=sample.labels, value=sample.value)
