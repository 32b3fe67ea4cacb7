"""Families of samples in the types of Prometheus' client library, which knows how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from router.metrics.histogram import Histogram

__all__ = ["PLAIN", "Labels", "Samples", "counter", "gauge", "histogram"]

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]
PLAIN: Labels = {}


def counter(name: str, about: str, samples: float | Samples) -> Metric:
    """Something that only grows; its name ends in `_total`."""
    family = CounterMetricFamily(name, about)
    for labels, value in _of(samples):
        family.add_sample(name, dict(labels), value)
    return family


def gauge(name: str, about: str, samples: float | Samples) -> Metric:
    """Something as it is now."""
    family = GaugeMetricFamily(name, about)
    for labels, value in _of(samples):
        family.add_sample(name, dict(labels), value)
    return family


def histogram(name: str, about: str, samples: Histogram | Iterable[tuple[Labels, Histogram]]) -> Metric:
    """How large many values were."""
    family = HistogramMetricFamily(name, about)
    for labels, of in [(PLAIN, samples)] if isinstance(samples, Histogram) else samples:
        for bound, count in of.buckets():
            family.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
        family.add_sample(f"{name}_count", dict(labels), of.num)
        family.add_sample(f"{name}_sum", dict(labels), of.sum)
    return family


def _of(samples: float | Samples) -> Samples:
    return [(PLAIN, samples)] if isinstance(samples, int | float) else samples
